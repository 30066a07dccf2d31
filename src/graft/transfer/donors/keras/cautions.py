"""Finds cases in which a Keras model's weights fit the shapes of a torch model that computes something else."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graft.transfer.donors.keras.activations import Unknown
from graft.transfer.donors.keras.families import Caution, Family
from graft.transfer.donors.keras.functions import function_of, trains_alone
from graft.transfer.donors.keras.graph import Graph, Layer
from graft.transfer.donors.keras.sizes import Size, entering_sizes, windows_of
from graft.transfer.donors.keras.windows import each_axis, pairs, same_padding
from graft.transfer.habits import EXACT, FIRST, LEFT_OUT, SAME, TANH, Doubt, Habit

_CONVOLUTION = re.compile(r"(Depthwise|Separable)?Conv[123]D")
_POOLING = re.compile(r"(Max|Average)Pooling[123]D")
_TRANSPOSED = re.compile(r"Conv[123]DTranspose")
_PASSES_ON = re.compile(
    r"BatchNormalization|LayerNormalization|ReLU|LeakyReLU|ELU|PReLU|Activation|InputLayer|.*Dropout.*"
)
_NO_LESS_THAN_ZERO = re.compile(r"relu6?|sigmoid|softmax|softplus|exponential|hard_sigmoid|ReLU|Softmax")
_WITH_TENSORS_ALONE = re.compile(r"Normalization|Rescaling")
_LARGEST = 64  # stride; a config that says more is not believed


@dataclass(slots=True)
class Finding:
    """One kind of difference: the layers that have it, and how a network must be built to match."""

    caution: Caution
    what: str
    """What Keras does and torch does not, as text."""
    layers: list[str]
    needs: dict[Habit, set[str]]

    def doubt(self) -> Doubt:
        """The finding as a doubt of the donor."""
        more = f" and {len(self.layers) - 3} more" if len(self.layers) > 3 else ""
        where = f"{', '.join(self.layers[:3])}{more}: " if self.layers else ""
        needs = {habit: frozenset(answers) for habit, answers in self.needs.items()}
        return Doubt(reason=f"{where}{self.what}", remedy=remedy_of(self.caution), needs=needs or None)


_WHAT = {
    Caution.padding: "pads one side more than the other, as TensorFlow's 'same' does at a stride; torch's padding is "
    "even, which shifts the map",
    Caution.strides: "strides in the first 1×1 convolution of a block, torchvision's in the 3×3",
    Caution.averaging: "averages what is there and leaves the border out; torch's average pooling counts it as zeros",
}
_REMEDIES = {
    Caution.padding: "a target that pads as TensorFlow does (timm's tf_ models), or accept another border",
    Caution.strides: "a target whose blocks stride in their first 1×1 convolution, or accept another function",
    Caution.averaging: "a target whose pooling has count_include_pad=False, or accept another border",
    Caution.activation: "a target with that activation, or accept another function",
    Caution.layers: "a target that does the same, or accept that nobody knows",
    Caution.bgr: "donor.keras.input=bgr, which turns the first convolution round, or accept another input",
}
_BGR = (
    "Keras' published {} was trained on blue, green, red from 0 to 255 with 103.939, 116.779, 123.68 taken off, "
    "not on red, green, blue divided by a standard deviation"
)
_NEEDS = {
    Caution.padding: (Habit.padding, SAME),
    Caution.strides: (Habit.bottleneck, FIRST),
    Caution.averaging: (Habit.border, LEFT_OUT),
}


def remedy_of(caution: Caution) -> str:
    """The remedy for a hidden difference, for error messages."""
    return f"{_REMEDIES[caution]} (donor.keras.accept=[{caution.value}])"


def findings_of(
    graph: Graph | None,
    family: Family | None,
    *,
    image_size: int | None = None,
    prepared: Collection[str] = (),
    with_weights: Collection[str] = (),
) -> list[Finding]:
    """Differences that shapes do not show, by the model's config, otherwise by the family of its weights.

    Args:
        image_size: side of the network's images; None: the size that the model was built for.
        prepared: layers that preprocess the images, which the network gets preprocessed.
        with_weights: layers with tensors, which the ledger accounts for.
    """
    findings = _of_family(family, has_config=graph is not None)
    if graph is not None:
        findings += _of_graph(graph, entering_sizes(graph, image_size), prepared, with_weights)
    return findings


def _of_family(family: Family | None, *, has_config: bool) -> list[Finding]:
    """The channel order, and the other differences if there is no config."""
    findings: list[Finding] = []
    for caution in Caution:
        if family is None or caution not in family.cautions:
            continue
        if caution is Caution.bgr:
            findings.append(Finding(caution, _BGR.format(family.name), [], {}))
        elif not has_config:
            habit, answer = _NEEDS[caution]
            findings.append(Finding(caution, f"Keras' {family.name} {_WHAT[caution]}", [], {habit: {answer}}))
    return findings


def _of_graph(
    graph: Graph, sizes: Mapping[str, Size], prepared: Collection[str], with_weights: Collection[str]
) -> list[Finding]:
    layers: dict[tuple[Caution, str, Habit | None], list[str]] = defaultdict(list)
    answers: dict[Habit, set[str]] = defaultdict(set)
    for layer in graph.layers.values():
        for caution, what, need in (
            [] if layer.name in prepared else _sightings(graph, layer, sizes[layer.name], with_weights)
        ):
            habit, answer = need or (None, "")
            layers[caution, what, habit].append(layer.name)
            if habit is not None:
                answers[habit].add(answer)
    return [
        Finding(caution, what, names, {habit: answers[habit]} if habit is not None else {})
        for (caution, what, habit), names in layers.items()
    ]


Sighting = tuple[Caution, str, tuple[Habit, str] | None]
"""A caution, a description of the difference, and the habit that a network needs to match."""


def _sightings(graph: Graph, layer: Layer, size: Size, with_weights: Collection[str]) -> Iterator[Sighting]:
    for caution, holds in (
        (Caution.padding, _pads_unevenly(layer, size)),
        (Caution.strides, _strides_first(graph, layer)),
        (Caution.averaging, _averages_border(layer, size)),
    ):
        if holds:
            yield caution, _WHAT[caution], _NEEDS[caution]
    if _pads_maximum(graph, layer):
        yield Caution.padding, "pads with zeros in front of a maximum, which torch's pooling does with −∞", None
    yield from _activations(layer, graph.version)
    what = "" if layer.name in with_weights else _unknown(layer, graph.version)
    if what:
        yield Caution.layers, what, None


def _pads_unevenly(layer: Layer, size: Size) -> bool:
    """Whether the layer pads an odd number of rows or columns in total, or may do so if the size of the feature map is
    unknown."""
    padding = layer.config.get("padding")
    if layer.class_name.startswith("ZeroPadding"):
        return any(before != behind for before, behind in pairs(padding, int(layer.class_name[-2])))
    if padding != "same":
        return False
    if _TRANSPOSED.fullmatch(layer.class_name):
        return any((window - stride) % 2 for window, stride, _, _ in windows_of(layer, size))
    if not _CONVOLUTION.fullmatch(layer.class_name) and not _POOLING.fullmatch(layer.class_name):
        return False
    return any(any((before + behind) % 2 for before, behind in _padding(*side)) for side in windows_of(layer, size))


def _padding(window: int, stride: int, dilation: int, size: int | None) -> list[tuple[int, int]]:
    """The 'same' padding along an axis, for every length if its length is unknown."""
    stride, reach = min(stride, _LARGEST), max(dilation * (window - 1) + 1, 1)
    sizes = [size] if size is not None else range(reach, reach + 2 * stride)
    return [same_padding(each, window, stride, dilation) for each in sizes]


def _strides_first(graph: Graph, layer: Layer) -> bool:
    """Whether this is a 1×1 convolution with a stride before a larger one without."""
    if not _CONVOLUTION.fullmatch(layer.class_name) or _window(layer) > 1 or _stride(layer) == 1:
        return False
    followers = graph.children(layer.name)
    while len(followers) == 1 and _PASSES_ON.fullmatch(graph.layers[followers[0]].class_name):
        followers = graph.children(followers[0])
    follower = graph.layers[followers[0]] if len(followers) == 1 else layer
    return _CONVOLUTION.fullmatch(follower.class_name) is not None and _window(follower) > 1 and _stride(follower) == 1


def _window(layer: Layer) -> int:
    return max(each_axis(layer.config.get("kernel_size") or 1, int(re.sub(r"\D", "", layer.class_name))))


def _stride(layer: Layer) -> int:
    return max(each_axis(layer.config.get("strides") or 1, int(re.sub(r"\D", "", layer.class_name))))


def _averages_border(layer: Layer, size: Size) -> bool:
    if not re.fullmatch(r"AveragePooling[123]D", layer.class_name) or layer.config.get("padding") != "same":
        return False
    return any(any(map(sum, _padding(*side))) for side in windows_of(layer, size))


def _pads_maximum(graph: Graph, layer: Layer) -> bool:
    """Whether this is a ZeroPadding before a MaxPooling whose inputs may be negative."""
    if not layer.class_name.startswith("ZeroPadding"):
        return False
    parents = [graph.layers[name] for name in graph.parents(layer.name) if name in graph.layers]
    following = [graph.layers[name].class_name for name in graph.children(layer.name)]
    positive = all(_NO_LESS_THAN_ZERO.fullmatch(_activation_name(parent)) for parent in parents)
    return any(name.startswith("MaxPooling") for name in following) and not (parents and positive)


def _activation_name(layer: Layer) -> str:
    activation = layer.config.get("activation")
    slope = layer.config.get("negative_slope")
    return str(activation) if activation is not None else f"{layer.class_name}{' with a slope' if slope else ''}"


def _activations(layer: Layer, version: int) -> Iterator[Sighting]:
    """Activations with a setting that differs from the default of torch's layer of the same name."""
    activation: Any = layer.config.get("activation")
    inner: Mapping[str, Any] = activation if isinstance(activation, Mapping) else {}
    own = layer.config if activation is None else inner.get("config")
    config: Mapping[str, Any] = own if isinstance(own, Mapping) else {}
    name = str(inner.get("class_name", activation)) if activation is not None else layer.class_name
    match name:
        case "LeakyReLU" | "leaky_relu":
            slope = config.get("negative_slope", config.get("alpha", 0.3 if name == "LeakyReLU" else 0.2))
            yield _set(Habit.leaky_slope, f"{_number(slope):g}", "0.01", "a LeakyReLU of the slope")
        case "ELU":
            yield _set(Habit.elu_alpha, f"{_number(config.get('alpha', 1.0)):g}", "1", "an ELU of alpha")
        case "gelu":
            yield _set(Habit.gelu, EXACT, EXACT, "a GELU")
        case "Gelu":
            yield _set(Habit.gelu, TANH if config.get("approximate", True) else EXACT, EXACT, "a GELU computed")
        case "ReLU":
            yield from _relu(config)
        case "hard_sigmoid" if version < 3:
            yield Caution.activation, "the hard sigmoid of Keras 2, 0.2·x + 0.5; torch's is x / 6 + 0.5", None
        case _:
            pass


def _set(habit: Habit, value: str, default: str, what: str) -> Sighting:
    usual = "" if value == default else ", which torch's is not by itself"
    return Caution.activation, f"{what} {value}{usual}", (habit, value)


def _relu(config: Mapping[str, Any]) -> Iterator[Sighting]:
    slope, threshold = _number(config.get("negative_slope")), _number(config.get("threshold"))
    largest = config.get("max_value")
    if threshold or (largest is not None and (slope or _number(largest) != 6)):
        yield (
            Caution.activation,
            "a ReLU with a threshold or with another maximum than 6, which torch has none of",
            None,
        )
    elif slope:
        yield _set(Habit.leaky_slope, f"{slope:g}", "0.01", "a LeakyReLU of the slope")


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _unknown(layer: Layer, version: int) -> str:
    """A message about a layer without tensors that graft cannot compute, or that torch's networks do not have."""
    name = layer.class_name
    if name == "InputLayer" or layer.kind is not None or trains_alone(name):
        return ""
    if _WITH_TENSORS_ALONE.fullmatch(name):
        return f"a {name} behind the first layers, which the target must have as well"
    try:
        function_of(layer, version)
    except Unknown as error:
        return f"{error}, which graft cannot compare with anything"
    return ""
