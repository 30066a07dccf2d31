"""Batch-norms with a different epsilon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graft.transfer.adapt.rule import Adapter, Misfit, Shape, Site


@dataclass(frozen=True, slots=True)
class EpsilonFold(Adapter):
    """The donor's variance, shifted so that the target's epsilon gives the same standard deviation."""

    name: ClassVar[str] = "epsilon_fold"
    exact: ClassVar[bool] = True
    keeps_function: ClassVar[bool] = True
    effect: ClassVar[str] = "in evaluation, where the stored variance is used"
    before: float | None = None
    """The donor's epsilon, if the donor does not provide it."""

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        if site.leaf != "running_var":
            return None
        return donor if self._shift(site) else None

    def formula(self, donor: Shape, site: Site) -> str:
        return f"var' = var + {self._before(site):g} − {site.epsilon:g}"

    def __call__(self, value: Tensor, site: Site) -> Tensor:
        return value + self._shift(site)

    def _shift(self, site: Site) -> float:
        if site.epsilon is None:
            raise Misfit(f"{self.name} needs a target norm with an epsilon, and {site.name} belongs to none")
        return self._before(site) - site.epsilon

    def _before(self, site: Site) -> float:
        before = site.donor_epsilon if self.before is None else self.before
        if before is None:
            raise Misfit(f"{self.name} needs the donor's epsilon, which it does not say; try {{name: {self.name}, "
                         "before: 0.001}")  # fmt: skip
        return before
