"""How far each stage moved: the relative L2 change between two sets of weights, and the angle between them."""

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
    """A stage's tensors taken as one vector: how far it moved and how it turned; `largest` moved most."""

    stage: str
    change: float
    cosine: float | None
    largest: str
    largest_change: float
    tensors: int
    moved: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Sums over the elements of a tensor (or of several, taken as one vector) before and after."""

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
        """|after - before| / |before|. What began at zero has no relative change: it is told by its absolute one."""
        return math.sqrt(self.moved / self.start) if self.start > 0 else math.sqrt(self.moved)

    @property
    def cosine(self) -> float | None:
        """Of the angle between before and after; None where one of them is zero."""
        lengths = math.sqrt(self.start) * math.sqrt(self.end)
        return max(-1.0, min(1.0, self.product / lengths)) if lengths > 0 else None


NO_CHANGE = Change(moved=0.0, start=0.0, end=0.0, product=0.0)


def tensor_change(before: torch.Tensor, after: torch.Tensor) -> Change:
    """In double precision; a complex number counts as two."""
    start = _doubles(before)
    if before.is_set_to(after):  # one and the same memory
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
    """The stages in the order of `before`; only tensors of the same name and shape on both sides count.

    Args:
        before: parameters by name, as injected. Leave running statistics out: their scale drowns the weights'.
        after: the same at the end of training.
        stage_of: a tensor's name to its stage's (`Stages.stage_of`).
    """
    changes: dict[str, dict[str, Change]] = {}
    for name, tensor in before.items():
        if name in after and tensor.is_floating_point() and after[name].shape == tensor.shape:
            changes.setdefault(stage_of(name), {})[name] = tensor_change(tensor, after[name])
    return [stage_drift(stage, tensors) for stage, tensors in changes.items()]


def write_drift(folder: Path | str, rows: list[StageDrift], *, since: str = "donor") -> None:
    """drift.json in a run's folder; `since` says what `before` was."""
    write_json(Path(folder) / FILE, {"since": since, "stages": [asdict(row) for row in rows]})


def stage_drift(stage: str, tensors: Mapping[str, Change]) -> StageDrift:
    """One stage's row, of the changes of its tensors by name."""
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
