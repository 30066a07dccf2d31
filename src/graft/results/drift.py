"""How far each stage moved: the relative L2 change between two sets of weights, and the cosine of their angle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from graft.system.files import write_json

FILE = "drift.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDrift:
    """The change of a stage's tensors, concatenated to one vector. `largest` is the tensor with the largest change."""

    stage: str
    change: float
    cosine: float | None
    largest: str
    largest_change: float
    tensors: int
    moved: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Sums over the elements of a tensor before and after, or of several tensors, concatenated to one vector."""

    moved: float
    """|after - before|²"""
    start: float
    """|before|²"""
    end: float
    """|after|²"""
    product: float
    """before · after"""

    def __add__(self, other: Change) -> Change:
        return Change(
            moved=self.moved + other.moved,
            start=self.start + other.start,
            end=self.end + other.end,
            product=self.product + other.product,
        )

    @property
    def relative(self) -> float:
        """|after - before| / |before|, or the absolute change if `before` is zero."""
        return math.sqrt(self.moved / self.start) if self.start > 0 else math.sqrt(self.moved)

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between before and after; None if one of them is zero."""
        lengths = math.sqrt(self.start) * math.sqrt(self.end)
        return max(-1.0, min(1.0, self.product / lengths)) if lengths > 0 else None


NO_CHANGE = Change(moved=0.0, start=0.0, end=0.0, product=0.0)


def tensor_change(before: torch.Tensor, after: torch.Tensor) -> Change:
    """The change between two tensors of the same shape, in float64. A complex number counts as two real ones."""
    start = _doubles(before)
    if before.is_set_to(after):  # the same memory
        length = float(start.square().sum())
        return Change(moved=0.0, start=length, end=length, product=length)
    end = _doubles(after)
    return Change(
        moved=float((end - start).square().sum()),
        start=float(start.square().sum()),
        end=float(end.square().sum()),
        product=float((start * end).sum()),
    )


def _doubles(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.detach().cpu()
    return (torch.view_as_real(plain) if plain.is_complex() else plain).double()


def drift(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], stage_of: Callable[[str], str]
) -> list[StageDrift]:
    """The change of each stage, in the order of `before`.

    Tensors without a counterpart of the same name and shape are skipped, and so are integer tensors.

    Args:
        before: parameters by name before training. Leave out running statistics: their scale would dominate.
        after: the parameters after training.
        stage_of: maps a tensor's name to its stage (`Stages.stage_of`).

    Example:
        >>> (row,) = drift({"a.w": torch.tensor([3.0, 4.0])}, {"a.w": torch.tensor([3.0, 3.0])}, lambda name: "a")
        >>> row.change, row.largest
        (0.2, 'a.w')
    """
    changes: dict[str, dict[str, Change]] = {}
    for name, tensor in before.items():
        if name in after and tensor.is_floating_point() and after[name].shape == tensor.shape:
            changes.setdefault(stage_of(name), {})[name] = tensor_change(tensor, after[name])
    return [stage_drift(stage, tensors) for stage, tensors in changes.items()]


def write_drift(folder: Path | str, rows: list[StageDrift], *, since: str = "donor") -> None:
    """Writes drift.json into a run's folder. `since` names the starting point of the change."""
    write_json(Path(folder) / FILE, {"since": since, "stages": [asdict(row) for row in rows]})


def stage_drift(stage: str, tensors: Mapping[str, Change]) -> StageDrift:
    """The change of one stage, from those of its tensors by name."""
    together = sum(tensors.values(), start=NO_CHANGE)
    largest = max(tensors, key=lambda name: tensors[name].relative)
    return StageDrift(
        stage=stage,
        change=together.relative,
        cosine=together.cosine,
        largest=largest,
        largest_change=tensors[largest].relative,
        tensors=len(tensors),
        moved=sum(each.moved > 0 for each in tensors.values()),
    )
