"""Pairing by position: which tensors must not be paired."""

from __future__ import annotations

from graft.models.stages import COUNTER
from graft.transfer.ledger import TensorInfo

_ROLES = {"weight", "bias", "running_mean", "running_var", COUNTER}


def disagreement(source: TensorInfo, target: TensorInfo, source_name: str, target_name: str) -> bool:
    """Whether two tensors differ in shape, or differ in kind (a bias and a weight, say) although their shapes are
    equal."""
    roles = {source_name.rpartition(".")[2], target_name.rpartition(".")[2]}
    return source.shape != target.shape or (len(roles) == 2 and roles <= _ROLES)
