"""Where a Keras model's weights fit a torch model's shapes and still compute something else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any

from graft.config.faults import InputError
from graft.transfer.donors.keras.graph import Graph, Layer

_WINDOWED = re.compile(r"(Depthwise|Separable)?Conv[123]D|(Max|Average)Pooling[123]D")
_TRANSPOSED = re.compile(r"Conv[123]DTranspose")
_LARGEST = 64  # stride; a config that says more is not believed
_RESNET = re.compile(r"conv\d_block\d+_1_conv|res\d[a-z]+_branch2a")
_RESNET_V2 = re.compile(r".*preact.*|post_bn")
_VGG = re.compile(r"block5_conv[34]")


class Caution(Enum):
    """A hidden difference, by the word that donor.keras.accept takes."""

    padding = "padding"
    strides = "strides"
    bgr = "bgr"


_REMEDIES = {
    Caution.padding: "a target that pads as TensorFlow does (timm's tf_ models), or accept another border",
    Caution.strides: "a target whose blocks stride in their first 1×1 convolution, or accept another function",
    Caution.bgr: "donor.keras.input=bgr, which turns the first convolution round, or accept another input",
}


def cautions_of(graph: Graph | None, names: Iterable[str]) -> dict[Caution, str]:
    """What a reader of the shapes alone would miss, each with its reason.

    Args:
        graph: The model, where the file has its config.
        names: The names of its layers.
    """
    layers = list(names)
    found: dict[Caution, str] = {}
    uneven = list(_uneven(graph)) if graph is not None else []
    if uneven:
        found[Caution.padding] = (
            f"{', '.join(uneven[:3])}{f' and {len(uneven) - 3} more' if len(uneven) > 3 else ''}: pads one side more "
            "than the other, as TensorFlow's 'same' does at a stride; torch's padding is even, which shifts the map"
        )
    if is_keras_resnet(layers):
        found[Caution.strides] = (
            "Keras' ResNet strides in the first 1×1 convolution of a block (conv3_block1_1_conv), "
            "torchvision's in the 3×3"
        )
        found[Caution.bgr] = _BGR.format("ResNet")
    elif any(_VGG.fullmatch(name.rpartition(".")[2]) for name in layers):
        found[Caution.bgr] = _BGR.format("VGG")
    return found


def is_keras_resnet(names: Iterable[str]) -> bool:
    """Whether these are the layers of Keras' ResNet v1."""
    own = [name.rpartition(".")[2] for name in names]
    return any(map(_RESNET.fullmatch, own)) and not any(map(_RESNET_V2.fullmatch, own))


_BGR = (
    "Keras' published {} was trained on blue, green, red from 0 to 255 with 103.939, 116.779, 123.68 taken off, "
    "not on red, green, blue divided by a standard deviation"
)


def remedy_of(caution: Caution) -> str:
    return f"{_REMEDIES[caution]} (donor.keras.accept=[{caution.value}])"


def _uneven(graph: Graph) -> Iterator[str]:
    for layer in graph.layers.values():
        padding = layer.config.get("padding")
        if layer.class_name == "ZeroPadding2D":
            sides = padding if isinstance(padding, list) else []
            uneven = any(isinstance(side, list) and len(set(map(str, side))) > 1 for side in sides)
        elif padding != "same":
            uneven = False
        elif _WINDOWED.fullmatch(layer.class_name):
            uneven = any(_may_be_uneven(*side) for side in _sides(layer))
        elif _TRANSPOSED.fullmatch(layer.class_name):
            rank = int(re.sub(r"\D", "", layer.class_name))
            windows, strides = _each(layer.config.get("kernel_size"), rank), _each(layer.config.get("strides"), rank)
            uneven = any((window - stride) % 2 for window, stride in zip(windows, strides, strict=True))
        else:
            uneven = False
        if uneven:
            yield layer.name


def _sides(layer: Layer) -> Iterator[tuple[int, int, int, int | None]]:
    """Window, stride, dilation and size of each spatial axis; a size of None is not known."""
    rank = int(layer.class_name[-2])
    windows = _each(layer.config.get("kernel_size") or layer.config.get("pool_size"), rank)
    strides = _each(layer.config.get("strides") or layer.config.get("pool_size"), rank)
    dilations = _each(layer.config.get("dilation_rate") or 1, rank)
    shape = layer.input_shape or []
    first = layer.config.get("data_format") == "channels_first"
    unknown: list[Any] = [None] * rank
    sizes = (shape[2:] if first else shape[1:-1]) if len(shape) == rank + 2 else unknown
    for window, stride, dilation, size in zip(windows, strides, dilations, sizes, strict=True):
        yield window, stride, dilation, size if isinstance(size, int) else None


def _each(value: object, rank: int) -> list[int]:
    """One number an axis; a description with another count cannot be judged, so it is refused."""
    sides = value if isinstance(value, list) else [value] * rank
    if len(sides) != rank:
        raise InputError(
            f"donor: expected {rank} numbers, one for each axis of a layer, received {sides}; try a fresh copy"
        )
    return [side if isinstance(side, int) else 1 for side in sides]


def _may_be_uneven(window: int, stride: int, dilation: int, size: int | None) -> bool:
    """Whether 'same' pads an odd number of rows in all: max((⌈n/s⌉ − 1)·s + d·(k − 1) + 1 − n, 0)."""
    stride, reach = min(max(stride, 1), _LARGEST), max(dilation * (window - 1) + 1, 1)
    sizes = [size] if size is not None else range(reach, reach + 2 * stride)
    return any(max((-(-n // stride) - 1) * stride + reach - n, 0) % 2 for n in sizes)
