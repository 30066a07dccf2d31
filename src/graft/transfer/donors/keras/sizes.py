"""Sizes of the feature map that enters each layer of a Keras model, as far as its config determines them."""

from __future__ import annotations

import re
from typing import Any

from graft.transfer.donors.keras.graph import Graph, Layer
from graft.transfer.donors.keras.windows import each_axis, pairs

Size = tuple[int | None, ...]
"""Size along each spatial axis; None if unknown."""

_SLIDES = re.compile(r"(Depthwise|Separable)?Conv[123]D|(Max|Average)Pooling[123]D")
_TRANSPOSED = re.compile(r"Conv[123]DTranspose")
_KEEPS_NO_MAP = re.compile(r"Global.*|Flatten|Reshape|Permute|RepeatVector|Adaptive.*")


def entering_sizes(graph: Graph, image_size: int | None = None) -> dict[str, Size]:
    """The size by layer. With several inputs, the largest counts, because a 1×1 gate is applied to the whole feature
    map.

    Args:
        image_size: side of the images; None: the size that the model was built for.
    """
    leaving: dict[str, Size] = {}
    entering: dict[str, Size] = {}
    for name, layer in graph.layers.items():  # in the order of the model, so that what feeds a layer stands before it
        fed = [leaving[parent] for parent in graph.parents(name) if parent in leaving]
        entering[name] = max(fed, key=_area, default=())
        leaving[name] = _image(layer, image_size) if not layer.parents else _leaving(layer, entering[name])
    return entering


def _area(size: Size) -> tuple[int, int]:
    sides = [side for side in size if side is not None]
    return len(size), sum(sides)


def _image(layer: Layer, image_size: int | None) -> Size:
    shape = layer.config.get("batch_shape") or layer.config.get("batch_input_shape")
    if not isinstance(shape, list) or len(shape) < 3:
        return ()
    sides: Size = tuple(side if isinstance(side, int) else None for side in shape[1:-1])
    if len(sides) == 2 and isinstance(shape[-1], int) and shape[-1] > 4 and shape[1] in (1, 3):
        sides = tuple(side if isinstance(side, int) else None for side in shape[2:])  # channels first
    return sides if image_size is None else (image_size,) * len(sides)


def _leaving(layer: Layer, size: Size) -> Size:
    name, config, rank = layer.class_name, layer.config, len(size)
    if not size or _KEEPS_NO_MAP.fullmatch(name):
        return ()
    if _SLIDES.fullmatch(name) or _TRANSPOSED.fullmatch(name):
        moved, padding = _slid if _SLIDES.fullmatch(name) else _spread, str(config.get("padding", "valid"))
        return tuple(moved(*each, padding=padding) for each in windows_of(layer, size))
    if name.startswith("UpSampling"):
        return tuple(side and side * by for side, by in zip(size, each_axis(config.get("size", 2), rank), strict=True))
    if name in ("Resizing", "CenterCrop"):
        return (_whole(config.get("height")), _whole(config.get("width")))
    if name.startswith(("ZeroPadding", "Cropping")):
        sign = 1 if name.startswith("Zero") else -1
        sides = pairs(config.get("padding" if sign > 0 else "cropping"), rank)
        return tuple(side and side + sign * (before + after) for side, (before, after) in zip(size, sides, strict=True))
    return size


def windows_of(layer: Layer, size: Size) -> list[tuple[int, int, int, int | None]]:
    """Window, stride, dilation and map size along each spatial axis of a layer with a sliding window."""
    config, rank = layer.config, int(re.sub(r"\D", "", layer.class_name))
    windows = each_axis(config.get("kernel_size") or config.get("pool_size"), rank)
    strides = each_axis(config.get("strides") or config.get("pool_size") or 1, rank)
    dilations = each_axis(config.get("dilation_rate") or 1, rank)
    sizes = size if len(size) == rank else (None,) * rank
    return list(zip(windows, [max(stride, 1) for stride in strides], dilations, sizes, strict=True))


def _slid(window: int, stride: int, dilation: int, size: int | None, *, padding: str) -> int | None:
    if size is None:
        return None
    return -(-size // stride) if padding in ("same", "causal") else (size - dilation * (window - 1) - 1) // stride + 1


def _spread(window: int, stride: int, dilation: int, size: int | None, *, padding: str) -> int | None:
    if size is None:
        return None
    return size * stride if padding == "same" else (size - 1) * stride + max(dilation * (window - 1) + 1, stride)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None
