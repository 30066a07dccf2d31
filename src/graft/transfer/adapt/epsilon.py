"""Batch-norms that add another number to their variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graft.transfer.adapt.rule import Adapter, Shape, Site


@dataclass(frozen=True, slots=True)
class EpsilonFold(Adapter):
    """The donor's variance, moved so that the target's epsilon leads to the same standard deviation."""

    name: ClassVar[str] = "epsilon_fold"
    exact: ClassVar[bool] = True
    effect: ClassVar[str] = "in evaluation, where the stored variance is used"
    before: float
    """The donor's epsilon."""
    after: float
    """The target's."""

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        return donor

    def formula(self, donor: Shape, site: Site) -> str:
        return f"var' = var + {self.before:g} − {self.after:g}"

    def __call__(self, value: Tensor, site: Site) -> Tensor:
        return value + (self.before - self.after)
