"""A Keras model's config as a flat graph: each layer with its class, its options and what feeds it.

Nothing of the config is instantiated; a Lambda's code stays a string.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from graft.transfer.donors.keras.layers import Kind

_MODELS = ("Sequential", "Functional", "Model")
_DEPTH = 16
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
"""Classes behind which features stand in the order in which they came."""
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


@dataclass(slots=True, kw_only=True)
class Layer:
    """One layer: `name` is its path through nested models, joined by dots."""

    name: str
    class_name: str
    config: Mapping[str, Any]
    parents: list[str]
    input_shape: list[Any] | None = None

    @property
    def kind(self) -> Kind | None:
        return Kind.__members__.get(snake_case(self.class_name))


@dataclass(slots=True)
class Graph:
    """Every layer that is not a model itself, in the model's order."""

    model: str
    layers: dict[str, Layer] = field(default_factory=dict[str, Layer])
    ends: dict[str, str] = field(default_factory=dict[str, str])
    """Name of a nested model to its last layer."""
    automatic: dict[str, str] = field(default_factory=dict[str, str])
    """The path that Keras makes of classes and numbers (`sequential.conv2d_1`) to the layer's name."""

    def parents(self, name: str) -> list[str]:
        return [self.ends.get(parent, parent) for parent in self.layers[name].parents]

    def flatten_before(self, name: str) -> str | None:
        """The Flatten whose order of features reaches a layer; None where none does."""
        seen: set[str] = set()
        while name in self.layers and name not in seen:
            seen.add(name)
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
        """Channels of the map that enters a layer; None where the config does not say."""
        return self._channels_into(name, set())

    def _channels_into(self, name: str, seen: set[str]) -> int | None:
        layer = self.layers.get(name)
        if layer is None or name in seen:
            return None
        if layer.input_shape is not None and len(layer.input_shape) > 1:
            return _positive(layer.input_shape[1 if layer.config.get("data_format") == "channels_first" else -1])
        seen.add(name)
        counts = [self._channels_out(parent, seen) for parent in self.parents(name)]
        if layer.class_name == "Concatenate":
            return sum(count for count in counts if count) if counts and all(counts) else None
        return counts[0] if counts else None

    def _channels_out(self, name: str, seen: set[str]) -> int | None:
        layer = self.layers.get(name)
        if layer is None:
            return None
        if layer.class_name == "InputLayer":
            shape = layer.config.get("batch_shape") or layer.config.get("batch_input_shape")
            return _positive(shape[-1]) if isinstance(shape, list) and len(shape) > 1 else None
        own = layer.config.get("filters") or layer.config.get("units")
        if own is not None:
            return _positive(own)
        into = self._channels_into(name, seen)
        if layer.kind in (Kind.depthwise_conv1d, Kind.depthwise_conv2d):
            multiplier = _positive(layer.config.get("depth_multiplier", 1))
            return into * multiplier if into and multiplier else None
        return into if layer.class_name in (*_KEEPS_CHANNELS, "Concatenate") else None


def graph_of(config: Any) -> Graph:
    """The graph of a model's config, as `config.json` and the attribute `model_config` hold it.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: It is no such config.
    """
    graph = Graph(model=str(config["config"].get("name", "")) if isinstance(config["config"], dict) else "")
    _collect(config, _Place(), [], graph)
    return graph


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in nested models a layer stands: by names, and by the names that Keras makes up."""

    name: str = ""
    automatic: str = ""
    depth: int = 0

    def below(self, name: str, automatic: str) -> _Place:
        if self.depth == _DEPTH:
            raise ValueError(f"models nested more than {_DEPTH} deep")
        return _Place(f"{self.name}.{name}".lstrip("."), f"{self.automatic}.{automatic}".lstrip("."), self.depth + 1)


def snake_case(name: str) -> str:
    """A class's name as Keras spells it in weights files (keras/src/utils/naming.py)."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _collect(model: Mapping[str, Any], place: _Place, feeds: list[str], graph: Graph) -> str:
    """Adds a model's layers to the graph and gives the name of its last one."""
    content = model["config"]
    listed = content if isinstance(content, list) else content.get("layers", [])  # Keras 1 and 2 wrote both
    sequential = model["class_name"] == "Sequential"
    counted: dict[str, int] = {}
    last = feeds
    for entry in listed:
        class_name = str(entry["class_name"])
        here = place.below(str(entry["config"].get("name") or entry.get("name")), _number(class_name, counted))
        if class_name == "InputLayer":
            parents = feeds
            if sequential:
                counted.clear()  # which does not count its input among its layers
        else:
            parents = last if sequential else [place.below(parent, "").name for parent in _inbound(entry)]
        graph.automatic[here.automatic] = here.name
        if class_name in _MODELS:
            graph.ends[here.name] = _collect(entry, here, parents, graph)
        else:
            graph.layers[here.name] = _layer(entry, here.name, parents)
        last = [here.name]
    outputs = None if isinstance(content, list) else content.get("output_layers")
    ends = [place.below(name, "").name for name in _references(outputs)] if outputs else last
    return ends[0] if ends else place.name


def _layer(entry: Mapping[str, Any], name: str, parents: list[str]) -> Layer:
    shape = (entry.get("build_config") or {}).get("input_shape")
    several = not isinstance(shape, list) or any(isinstance(side, list) for side in shape)
    return Layer(
        name=name,
        class_name=str(entry["class_name"]),
        config=entry["config"],
        parents=parents,
        input_shape=None if several else shape,
    )


def _number(class_name: str, counted: dict[str, int]) -> str:
    """`conv2d`, `conv2d_1`, …: what Keras calls the next layer of a class in a weights file."""
    name = snake_case(class_name)
    counted[name] = counted.get(name, -1) + 1
    return f"{name}_{counted[name]}" if counted[name] else name


def _inbound(entry: Mapping[str, Any]) -> list[str]:
    """The layers that feed the first call of a layer."""
    nodes = entry.get("inbound_nodes") or []
    return list(dict.fromkeys(_references(nodes[0]))) if nodes else []


def _references(value: Any) -> Iterator[str]:
    """Layer names in Keras 3's `keras_history` and in Keras 2's [name, node, tensor] triples."""
    if isinstance(value, Mapping):
        history = value.get("keras_history")
        if isinstance(history, list) and history:
            yield str(history[0])
        else:
            for inner in value.values():
                yield from _references(inner)
    elif isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int) and isinstance(value[2], int):
            yield value[0]
        else:
            for inner in value:
                yield from _references(inner)


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
