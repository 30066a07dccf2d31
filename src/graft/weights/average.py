"""Weighted averages of state dicts. Pure functions of mappings of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def average(states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted average Σ wᵢ θᵢ of every tensor, summed in float64 and returned in the dtype of the first state.

    A tensor that is equal in all states is returned unchanged, bit by bit. Integer tensors (a batch-norm's count of
    batches) are taken from the first state.

    Args:
        states: state dicts with the same names and shapes.
        weights: one per state; they must sum to 1.

    Example:
        >>> import torch
        >>> average([{"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([4.0, 2.0])}], [0.75, 0.25])
        {'w': tensor([1., 2.])}
    """
    assert len(states) == len(weights), "one weight per state"
    assert math.isclose(sum(weights), 1, abs_tol=1e-9), "weights that sum to 1"
    first = states[0]
    assert all(state.keys() == first.keys() for state in states), "the same tensors in each state"
    return {name: _average([state[name] for state in states], weights) for name in first}


def _average(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    first = values[0].detach()
    if not first.is_floating_point() or all(torch.equal(first, value) for value in values[1:]):
        return first.clone()
    total = torch.zeros(first.shape, dtype=torch.float64)
    for value, weight in zip(values, weights, strict=True):
        if weight:
            total += weight * value.detach().double()
    return total.to(first.dtype)
