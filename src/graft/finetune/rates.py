"""Each group's learning rate as a pure function of the step, so that there is nothing to save and nothing to
restore."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer

from graft.finetune.groups import Group
from graft.finetune.optimizer import Factor
from graft.finetune.unfreeze import Phase


class Rates:
    """A group's own rate, times the curve, times the phase's factor, times the warm-up of newly unfrozen groups.

    Args:
        curve: function from the optimizer step, counted from 0, to the factor on every rate.
        warmup: number of steps of the linear warm-up of a newly unfrozen group. Groups that train from the first step
            on have the curve's own warm-up.
    """

    def __init__(self, curve: Factor, phases: Sequence[Phase], warmup: int) -> None:
        self.curve = curve
        self.phases = tuple(phases)
        self.warmup = warmup
        self._spans: dict[tuple[int, int | None], tuple[float, float, float]] = {}

    def of(self, group: Group, step: int) -> float:
        """The group's rate in a step. If it is frozen then, the rate that it would have."""
        return group.lr * self._factor(step, self.thawed_at(group, step))

    def base(self, step: int) -> float:
        """The factor that all groups have in common."""
        return self._factor(step, 0)

    def thawed_at(self, group: Group, step: int) -> int | None:
        """The step since which the group has trained without interruption up to this one; None if it is frozen."""
        since: int | None = None
        for phase in self.phases:
            if phase.start_step > step:
                break
            if group.names[0] in phase.frozen.names:  # a group freezes and thaws as a whole
                since = None
            elif since is None:
                since = phase.start_step
        return since

    def by_stage(self, groups: Sequence[Group], step: int) -> dict[str, float | None]:
        """The rate of each stage in a step, or each of its rates if it has several; None if it is frozen."""
        return {
            f"lr/{group.name.replace('/no_decay', '')}": None
            if self.thawed_at(group, step) is None
            else self.of(group, step)
            for group in groups
        }

    def apply(self, optimizer: Optimizer, groups: Sequence[Group], step: int) -> None:
        """Sets the rates of a step in the optimizer, whose parameter groups these are."""
        for param_group, group in zip(optimizer.param_groups, groups, strict=True):
            param_group["lr"] = self.of(group, step)

    def span(self, group: Group, phase: Phase) -> tuple[float, float, float] | None:
        """The group's first, highest and last rate in a phase; None if it is frozen."""
        since = self.thawed_at(group, phase.start_step)
        if since is None:
            return None
        key = (phase.start_step, since)
        if key not in self._spans:  # many groups share it, and a phase may have a million steps
            factors = [self._factor(step, since) for step in range(phase.start_step, phase.stop_step)]
            self._spans[key] = (factors[0], max(factors), factors[-1])
        first, highest, last = self._spans[key]
        return group.lr * first, group.lr * highest, group.lr * last

    def _factor(self, step: int, since: int | None) -> float:
        common = self.curve(step) * self._phase_at(step).factor
        if not since or not self.warmup:
            return common
        return common * min((step - since + 1) / self.warmup, 1.0)

    def _phase_at(self, step: int) -> Phase:
        return next((phase for phase in reversed(self.phases) if phase.start_step <= step), self.phases[0])
