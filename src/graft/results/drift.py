"""How far each stage moved: the relative L2 change between two sets of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from graft.files import write_json

FILE = "drift.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDrift:
    """`change` is |after - before| / |before| over a stage's tensors taken as one vector; `largest` moved most."""

    stage: str
    change: float
    largest: str
    largest_change: float
    tensors: int
    moved: int


def tensor_change(before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
    """(|after - before|², |before|²) in double precision."""
    start, end = before.detach().double().cpu(), after.detach().double().cpu()
    return float((end - start).square().sum()), float(start.square().sum())


def drift(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], stage_of: Callable[[str], str]
) -> list[StageDrift]:
    """The stages in the order of `before`; only tensors of the same name and shape on both sides count.

    Args:
        before: parameters by name, as injected. Leave running statistics out: their scale drowns the weights'.
        after: the same at the end of training.
        stage_of: a tensor's name to its stage's (`Stages.stage_of`).
    """
    squares: dict[str, dict[str, tuple[float, float]]] = {}
    for name, tensor in before.items():
        if name in after and tensor.is_floating_point() and after[name].shape == tensor.shape:
            squares.setdefault(stage_of(name), {})[name] = tensor_change(tensor, after[name])
    return [_stage(stage, tensors) for stage, tensors in squares.items()]


def write_drift(folder: Path | str, rows: list[StageDrift], *, since: str = "donor") -> None:
    """drift.json in a run's folder; `since` says what `before` was."""
    write_json(Path(folder) / FILE, {"since": since, "stages": [asdict(row) for row in rows]})


def _stage(stage: str, tensors: Mapping[str, tuple[float, float]]) -> StageDrift:
    largest = max(tensors, key=lambda name: _ratio(*tensors[name]))
    return StageDrift(
        stage=stage,
        change=_ratio(sum(moved for moved, _ in tensors.values()), sum(start for _, start in tensors.values())),
        largest=largest,
        largest_change=_ratio(*tensors[largest]),
        tensors=len(tensors),
        moved=sum(moved > 0 for moved, _ in tensors.values()),
    )


def _ratio(moved: float, start: float) -> float:
    """A tensor that began at zero has no relative change: moved or not, it is told by its absolute one."""
    return math.sqrt(moved / start) if start > 0 else math.sqrt(moved)
