"""Sliding windows as in TensorFlow: the amount of 'same' padding, and pooling that excludes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graft.config.faults import InputError


def each_axis(value: object, rank: int) -> list[int]:
    """One number per axis.

    Raises:
        InputError: there is another count of numbers, which cannot be interpreted.
    """
    sides = value if isinstance(value, list) else [value] * rank
    if len(sides) != rank:
        raise InputError(
            f"donor: expected {rank} numbers, one for each axis of a layer, received {sides}; try a fresh copy"
        )
    return [side if isinstance(side, int) else 1 for side in sides]


def pairs(value: Any, rank: int) -> list[tuple[int, int]]:
    """Padding before and after on each axis, from one number, one per axis, or two per axis."""
    if isinstance(value, int):
        return [(value, value)] * rank
    if not isinstance(value, list):
        return [(0, 0)] * rank
    if rank == 1 and len(value) == 2 and all(isinstance(each, int) for each in value):
        return [(value[0], value[1])]
    return [(side, side) if isinstance(side, int) else (side[0], side[1]) for side in value]


def same_padding(size: int, window: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Padding before and after: max((⌈n/s⌉ − 1)·s + d·(k − 1) + 1 − n, 0) in total, with an odd one at the end."""
    total = max((-(-size // stride) - 1) * stride + dilation * (window - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def padded(
    x: Tensor, windows: Sequence[int], strides: Sequence[int], dilations: Sequence[int], value: float = 0.0
) -> Tensor:
    """N, C, spatial… with 'same' padding."""
    sizes = zip(x.shape[2:], windows, strides, dilations, strict=True)
    sides = [same_padding(*each) for each in sizes]
    return functional.pad(x, [side for pair in reversed(sides) for side in pair], value=value)


def pooled(name: str, config: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """MaxPooling or AveragePooling on N, spatial…, C.

    The padding counts as −∞ for a maximum and is excluded from a mean, which divides by the number of actual values.
    """
    rank, largest = int(name[-2]), name.startswith("Max")
    windows = each_axis(config.get("pool_size"), rank)
    strides = each_axis(config.get("strides") or config.get("pool_size"), rank)
    same = config.get("padding") == "same"
    pool: Any = getattr(functional, f"{'max' if largest else 'avg'}_pool{rank}d")

    def compute(x: Tensor) -> Tensor:
        y = x.movedim(-1, 1)
        if not same:
            return pool(y, windows, strides).movedim(1, -1)
        once = [1] * rank
        padding = padded(y, windows, strides, once, -inf if largest else 0.0)
        pooled = pool(padding, windows, strides)
        if not largest:
            pooled = pooled / pool(padded(torch.ones_like(y[:1, :1]), windows, strides, once), windows, strides)
        return pooled.movedim(1, -1)

    return compute
