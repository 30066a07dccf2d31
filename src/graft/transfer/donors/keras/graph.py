"""A Keras model as a flat graph: each layer with its class, its settings and its inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graft.transfer.donors.keras.layers import Kind

_KEEPS_FEATURES = (
    "Activation",
    "ActivityRegularization",
    "AlphaDropout",
    "BatchNormalization",
    "Dropout",
    "ELU",
    "GaussianDropout",
    "GaussianNoise",
    "LayerNormalization",
    "LeakyReLU",
    "PReLU",
    "ReLU",
    "Softmax",
)
"""Classes that preserve the order of features."""
_ENDS_TRUNK = re.compile(r"Global(Max|Average)Pooling[123]D|Flatten")
_KEEPS_CHANNELS = (
    *_KEEPS_FEATURES,
    "Add",
    "Average",
    "AveragePooling1D",
    "AveragePooling2D",
    "AveragePooling3D",
    "Cropping2D",
    "MaxPooling1D",
    "MaxPooling2D",
    "MaxPooling3D",
    "Maximum",
    "Multiply",
    "Rescaling",
    "SpatialDropout2D",
    "UpSampling2D",
    "ZeroPadding2D",
)


@dataclass(frozen=True, slots=True)
class Reference:
    """The output of a layer, as the input of another one."""

    name: str


@dataclass(slots=True, kw_only=True)
class Layer:
    """One layer. `name` is its path through nested models, joined by dots."""

    name: str
    class_name: str
    config: Mapping[str, Any]
    parents: list[str]
    input_shape: list[Any] | None = None
    operands: list[Any] = field(default_factory=list[Any])
    """The arguments of its first call in order: a `Reference` for a layer's output, otherwise a number, a list or a
    text."""
    calls: int = 1
    """Number of calls in the model."""

    @property
    def kind(self) -> Kind | None:
        return Kind.__members__.get(snake_case(self.class_name))


@dataclass(slots=True)
class Graph:
    """Every layer that is not itself a model, in the model's order."""

    model: str
    version: int = 3
    """Version of Keras; some names meant other functions in version 2."""
    end: str = ""
    """The layer whose output is the model's output; the first one if there are several."""
    layers: dict[str, Layer] = field(default_factory=dict[str, Layer])
    ends: dict[str, str] = field(default_factory=dict[str, str])
    """The last layer of each nested model, by the model's name."""
    calls: dict[str, int] = field(default_factory=dict[str, int])
    """Number of calls of each nested model."""
    models: list[str] = field(default_factory=list[str])
    """The nested models' own names, without those of the models around them."""
    automatic: dict[str, str] = field(default_factory=dict[str, str])
    """The layer's name by the path that Keras generates from classes and numbers (`sequential.conv2d_1`)."""
    _fed: dict[str, list[str]] | None = None

    def parents(self, name: str) -> list[str]:
        return [self.last_of(parent) for parent in self.layers[name].parents]

    def children(self, name: str) -> list[str]:
        """The layers that use a layer's output."""
        if self._fed is None:
            self._fed = {}
            for child in self.layers:
                for parent in self.parents(child):
                    self._fed.setdefault(parent, []).append(child)
        return self._fed.get(name, [])

    def last_of(self, name: str) -> str:
        """The output layer of a nested model, or the layer itself."""
        while name in self.ends and self.ends[name] != name:
            name = self.ends[name]
        return name

    def head(self) -> list[str]:
        """The layers after the pooling or Flatten that ends the trunk; empty if there is none."""
        behind: list[str] = []
        name = self.end
        while name in self.layers and name not in behind:
            if _ENDS_TRUNK.fullmatch(self.layers[name].class_name):
                return behind
            behind.append(name)
            parents = self.parents(name)
            if len(parents) != 1:
                return []
            name = parents[0]
        return []

    def flatten_before(self, name: str) -> str | None:
        """The Flatten that determines the order of a layer's input features; None if none does."""
        visited: set[str] = set()
        while name in self.layers and name not in visited:
            visited.add(name)
            parents = self.parents(name)
            if len(parents) != 1 or parents[0] not in self.layers:
                return None
            name = parents[0]
            class_name = self.layers[name].class_name
            if class_name == "Flatten" or (
                class_name == "Reshape" and len(self.layers[name].config.get("target_shape") or ()) == 1
            ):
                return name
            if class_name not in _KEEPS_FEATURES:
                return None
        return None

    def channels_into(self, name: str) -> int | None:
        """Channels of the feature map that enters a layer; None if the config does not say."""
        return self._channels_into(name, set())

    def _channels_into(self, name: str, visited: set[str]) -> int | None:
        layer = self.layers.get(name)
        if layer is None or name in visited:
            return None
        if layer.input_shape is not None and len(layer.input_shape) > 1:
            return _positive(layer.input_shape[1 if layer.config.get("data_format") == "channels_first" else -1])
        visited.add(name)
        counts = [self._channels_out(parent, visited) for parent in self.parents(name)]
        if layer.class_name == "Concatenate":
            return sum(count for count in counts if count) if counts and all(counts) else None
        return counts[0] if counts else None

    def _channels_out(self, name: str, visited: set[str]) -> int | None:
        layer = self.layers.get(name)
        if layer is None:
            return None
        if layer.class_name == "InputLayer":
            shape = layer.config.get("batch_shape") or layer.config.get("batch_input_shape")
            return _positive(shape[-1]) if isinstance(shape, list) and len(shape) > 1 else None
        own = layer.config.get("filters") or layer.config.get("units")
        if own is not None:
            return _positive(own)
        into = self._channels_into(name, visited)
        if layer.kind in (Kind.depthwise_conv1d, Kind.depthwise_conv2d):
            multiplier = _positive(layer.config.get("depth_multiplier", 1))
            return into * multiplier if into and multiplier else None
        return into if layer.class_name in (*_KEEPS_CHANNELS, "Concatenate") else None


def snake_case(name: str) -> str:
    """The name of a class in Keras' weights files (keras/src/utils/naming.py)."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
