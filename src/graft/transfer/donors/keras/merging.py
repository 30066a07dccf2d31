"""Keras' layers with several inputs, and the operators of functional models, in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from graft.transfer.donors.keras.activations import Unknown

Function = Callable[..., Tensor]
Maker = Callable[[Mapping[str, Any]], Function]


def _operand(value: Any, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value).to(like)


def _folded(operator: Callable[[Tensor, Tensor], Tensor]) -> Maker:
    """An operator applied from left to right; constants have the type of the inputs."""

    def compute(*values: Any) -> Tensor:
        like = next(value for value in values if isinstance(value, Tensor))
        return reduce(operator, (_operand(value, like) for value in values))

    return lambda _: compute


def _concatenate(config: Mapping[str, Any]) -> Function:
    axis = config.get("axis", -1)
    return lambda *values: torch.cat([*values], axis)


def _stack(config: Mapping[str, Any]) -> Function:
    axis = config.get("axis", 0)
    return lambda *values: torch.stack([*values], axis)


def _dot(config: Mapping[str, Any]) -> Function:
    axes = config.get("axes")
    if axes not in (-1, 1, [1, 1], [-1, -1]):
        raise Unknown(f"a Dot over the axes {axes}")

    def compute(a: Tensor, b: Tensor) -> Tensor:
        if a.ndim != 2 or b.ndim != 2:
            raise Unknown("a Dot of maps")
        if config.get("normalize"):
            a, b = (x * torch.rsqrt((x * x).sum(-1, keepdim=True).clamp(min=1e-12)) for x in (a, b))
        return (a * b).sum(-1, keepdim=True)

    return compute


def _scaled_residual(config: Mapping[str, Any]) -> Function:
    """InceptionResNetV2's own layer."""
    return lambda x, residual: x + float(config["scale"]) * residual


def _get_item(_: Mapping[str, Any]) -> Function:
    """x[..., channel], which reorders the colours in a model's own preprocessing."""

    def compute(x: Tensor, *key: Any) -> Tensor:
        if len(key) != 2 or key[0] != "__ellipsis__" or not isinstance(key[1], int):
            raise Unknown(f"the selection {str(key)[:40]}")
        return x[..., key[1]]

    return compute


MERGES: Mapping[str, Maker] = {
    "Average": lambda _: lambda *values: reduce(torch.add, values) / len(values),
    "Concatenate": _concatenate,
    "CustomScaleLayer": _scaled_residual,
    "Dot": _dot,
    "Maximum": _folded(torch.maximum),
    "Minimum": _folded(torch.minimum),
}
"""Layers; those that are also operators are below."""

OPERATIONS: Mapping[str, Maker] = {
    "Add": _folded(torch.add),
    "Divide": _folded(torch.true_divide),
    "Gelu": lambda config: (
        lambda x: torch.nn.functional.gelu(x, approximate="tanh" if config.get("approximate", True) else "none")
    ),
    "GetItem": _get_item,
    "Multiply": _folded(torch.mul),
    "Stack": _stack,
    "Subtract": _folded(torch.sub),
    "TrueDivide": _folded(torch.true_divide),
    "add": _folded(torch.add),
    "divide": _folded(torch.true_divide),
    "multiply": _folded(torch.mul),
    "subtract": _folded(torch.sub),
    "truediv": _folded(torch.true_divide),
    "mul": _folded(torch.mul),
    "sub": _folded(torch.sub),
}
"""By class (Keras 3) and by the last part of the function's name (Keras 2)."""
