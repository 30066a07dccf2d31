"""Determines the kind of a layer in a Keras file: from the user, the model's config, the file's names, or its
shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from graft.config.schema import KerasConfig
from graft.transfer.donors.keras.graph import Graph
from graft.transfer.donors.keras.layers import NORMS, SINGLE, Kind, Mismatch, Shape, variables_of
from graft.transfer.donors.keras.variables import FileLayer

_DEPTHWISE = ("depthwise_kernel", "pointwise_kernel")
_IN_ORDER = {"Normalization": ("mean", "variance", "count")}
"""Variable names that Keras numbers, for classes without a counterpart among a torch model's tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedLayer:
    """A layer's kind, and its variables' shapes by Keras' names."""

    kind: Kind | None
    """None: a class without a counterpart here; its tensors stay as Keras stores them."""
    datasets: Mapping[str, str]
    """Datasets by variable."""
    guessed: bool = False
    """Whether the kind was determined only by shapes."""


def kind_of(
    file_layer: FileLayer, shapes: Sequence[Shape], graph: Graph | None, options: KerasConfig, *, unscaled: bool = False
) -> TypedLayer:
    """The kind of a layer.

    Args:
        shapes: shapes of its variables, in the order of `file_layer.datasets`.
        unscaled: batch-norms with three variables have no gamma; only used without a config.

    Raises:
        Mismatch: its variables do not fit its kind, or its kind cannot be determined.
    """
    override = next((Kind(kind) for glob, kind in options.layers.items() if fnmatchcase(file_layer.layer, glob)), None)
    layer = graph.layers.get(file_layer.layer) if graph is not None else None
    if override is None and graph is not None:
        kind = layer.kind if layer is not None else None
        if kind is None:
            return raw(file_layer, layer.class_name if layer is not None else "")
        config = layer.config if layer is not None else {}
        return _typed_layer(file_layer, kind, scale=config.get("scale", True), center=config.get("center", True))
    if override is None and is_normalization(file_layer):
        return raw(file_layer, "Normalization")
    kind = override or (
        Kind.__members__.get(file_layer.hint) if file_layer.names is None else _by_names(file_layer, shapes)
    )
    guessed = kind is None
    kind = kind or _by_shapes(file_layer, shapes)
    absent = [variable for glob, variable in options.absent.items() if fnmatchcase(file_layer.layer, glob)]
    if unscaled and kind is Kind.batch_normalization and len(shapes) == 3 and not absent:
        absent = ["gamma"]
    return _typed_layer(file_layer, kind, scale="gamma" not in absent, center="beta" not in absent, guessed=guessed)


def _typed_layer(
    file_layer: FileLayer, kind: Kind, *, scale: object = True, center: object = True, guessed: bool = False
) -> TypedLayer:
    expected = (
        variables_of(kind, len(file_layer.datasets), scale=bool(scale), center=bool(center))
        if file_layer.names is None
        else []
    )
    names = expected or _checked_names(kind, file_layer.names or [])
    return TypedLayer(kind=kind, datasets=dict(zip(names, file_layer.datasets, strict=True)), guessed=guessed)


def _checked_names(kind: Kind, names: list[str]) -> list[str]:
    """The file's own names, if the kind can have them."""
    if kind in SINGLE and len(names) == 1:
        return [SINGLE[kind]]  # which layers of Keras' applications give a name of TensorFlow's
    if kind in (Kind.depthwise_conv1d, Kind.depthwise_conv2d):
        names = ["kernel" if name == "depthwise_kernel" else name for name in names]
    needed, optional = {"kernel"}, {"bias"}
    if kind in NORMS:
        needed, optional = set[str](), {"gamma", "beta"}
        if kind is Kind.batch_normalization:
            needed = {"moving_mean", "moving_variance"}
    elif kind in (Kind.separable_conv1d, Kind.separable_conv2d):
        needed = {"depthwise_kernel", "pointwise_kernel"}
    elif kind in SINGLE:
        needed, optional = {SINGLE[kind]}, set[str]()
    if len(set(names)) < len(names) or not needed <= set(names) <= needed | optional:
        both = sorted(needed) + [f"perhaps {name}" for name in sorted(optional)]
        raise Mismatch(f"{kind.value} has {', '.join(both)}, received {', '.join(names)}")
    return names


def _by_names(file_layer: FileLayer, shapes: Sequence[Shape]) -> Kind | None:
    """By the variables' names; convolutions with a plain `kernel` are distinguished by shape."""
    names = set(file_layer.names or [])
    if len(shapes) == 1 and len(shapes[0]) == 1 and file_layer.hint.endswith("layer_scale"):
        return Kind.layer_scale
    if names & {"moving_mean", "moving_variance"}:
        return Kind.batch_normalization
    if names & {"gamma", "beta"}:
        return Kind.layer_normalization
    if "embeddings" in names:
        return Kind.embedding
    if names & set(_DEPTHWISE):
        family = "separable" if "pointwise_kernel" in names else "depthwise"
        return Kind.__members__.get(f"{family}_conv{len(shapes[0]) - 2}d")
    return Kind.dense if "kernel" in names and len(shapes[0]) == 2 else None


def _by_shapes(file_layer: FileLayer, shapes: Sequence[Shape]) -> Kind:
    """By shapes only. A wrong guess among convolutions has another shape in torch, or the same values."""
    ranks = [len(shape) for shape in shapes]
    match ranks:
        case [1, 1, 1, 1]:
            return Kind.batch_normalization
        case [2, 1]:
            return Kind.dense
        case [2] if shapes[0][0] != shapes[0][1]:
            return Kind.dense
        case [3 | 4 | 5 as rank] | [3 | 4 | 5 as rank, 1]:
            return _convolution(rank - 2, shapes, file_layer.layer)
        case _:
            pass
    listed = ", ".join("×".join(map(str, shape)) for shape in shapes)
    raise Mismatch(
        f"variables of shapes {listed} could be several classes; set donor.keras.layers={{{file_layer.layer}: CLASS}} "
        f"(one of {', '.join(Kind.__members__)})"
    )


def _convolution(axes: int, shapes: Sequence[Shape], name: str) -> Kind:
    *_, inputs, last = shapes[0]
    bias = shapes[1][0] if len(shapes) > 1 else None
    depthwise = Kind.__members__.get(f"depthwise_conv{axes}d")
    if depthwise and bias in (None, inputs * last) and (("depthwise" in name) or (last == 1 and bias != 1)):
        return depthwise
    plain, transposed = Kind[f"conv{axes}d"], Kind[f"conv{axes}d_transpose"]
    return transposed if bias == inputs != last or (bias is None and "transpose" in name) else plain


def is_normalization(file_layer: FileLayer) -> bool:
    """Whether this is a Normalization layer, which has no counterpart among a torch model's tensors."""
    return (
        file_layer.hint == "normalization"
        if file_layer.names is None
        else {"mean", "variance"} <= set(file_layer.names)
    )


def raw(file_layer: FileLayer, class_name: str = "") -> TypedLayer:
    """A layer whose tensors stay as Keras stores them."""
    numbers = [dataset.rpartition("/")[2] for dataset in file_layer.datasets]
    in_order = _IN_ORDER.get(class_name, ())[: len(numbers)]
    names = file_layer.names or [*in_order, *numbers[len(in_order) :]]
    return TypedLayer(kind=None, datasets=dict(zip(names, file_layer.datasets, strict=True)))
