"""Weighted averages of weights. Pure functions of mappings of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def average(states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """Σ wᵢ θᵢ for every tensor, summed in double precision; tensors that all states share keep every bit.

    Whole numbers (a batch-norm's count of batches) are the first state's.

    Args:
        states: the same names and shapes in each.
        weights: they sum to 1.
    """
    assert len(states) == len(weights), "a weight a state"
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
