"""When what is frozen thaws: a schedule is a table of moments, and the freeze state a pure function of it and the step.

Nothing here is an event: whoever resumes at a step asks `frozen_at` and gets what an undisturbed run has there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graft.config.duration import Duration, Unit, parse_duration
from graft.config.faults import InputError
from graft.config.schema import UnfreezeConfig, UnfreezeKind
from graft.finetune.freeze import Frozen, nothing_frozen, parse_freeze, without_stage
from graft.models.stages import HEAD, Stages

START = Duration(0, Unit.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """From `at` on, `frozen` holds."""

    at: Duration
    frozen: Frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A span of training with one freeze state; steps are optimizer steps, `stop_step` is not part of it."""

    start_step: int
    stop_step: int
    start_epoch: float
    frozen: Frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The freeze states of a training, each with its moment; the first holds from the start."""

    kind: UnfreezeKind
    moments: tuple[Moment, ...]

    def frozen_at(self, step: int, steps_per_epoch: int, total_steps: int) -> Frozen:
        """The freeze state in which optimizer step `step` (counted from 0) is taken."""
        current = self.moments[0].frozen
        for start, frozen in self._starts(steps_per_epoch, total_steps):
            if start <= step:
                current = frozen
        return current

    def phases(self, steps_per_epoch: int, total_steps: int) -> list[Phase]:
        """The spans that this training really has: moments at or after its end open none."""
        starts = [
            (start, frozen) for start, frozen in self._starts(steps_per_epoch, total_steps) if start < total_steps
        ]
        spans: list[tuple[int, Frozen]] = []
        for start, frozen in starts:
            if spans and spans[-1][0] == start:
                spans.pop()
            if not spans or spans[-1][1].names != frozen.names:
                spans.append((start, frozen))
        stops = [start for start, _ in spans[1:]] + [total_steps]
        return [
            Phase(start_step=start, stop_step=stop, start_epoch=start / steps_per_epoch, frozen=frozen)
            for (start, frozen), stop in zip(spans, stops, strict=True)
        ]

    def never_trained(self, steps_per_epoch: int, total_steps: int) -> frozenset[str]:
        """Tensors that every phase freezes."""
        phases = self.phases(steps_per_epoch, total_steps)
        return frozenset.intersection(*(phase.frozen.names for phase in phases))

    def unreached(self, steps_per_epoch: int, total_steps: int) -> list[str]:
        """A remark on each moment that lies at or after the training's end."""
        return [
            f"unfreeze: {moment.at} is step {moment.at.steps(steps_per_epoch, total_steps)} of {total_steps},"
            f" so what would be frozen then ({moment.frozen}) never comes about"
            for moment in self.moments
            if moment.at.steps(steps_per_epoch, total_steps) >= total_steps
        ]

    def _starts(self, steps_per_epoch: int, total_steps: int) -> list[tuple[int, Frozen]]:
        starts = [(moment.at.steps(steps_per_epoch, total_steps), moment.frozen) for moment in self.moments]
        return sorted(starts, key=lambda start: start[0])  # stable: of two at one step, the later in the table holds


def make_schedule(
    unfreeze: UnfreezeConfig, freeze: str | Sequence[str], stages: Stages, tensor_names: Iterable[str]
) -> Schedule:
    """The schedule that `freeze` and `unfreeze` describe.

    Raises:
        InputError: an expression or a duration that cannot be read, a schedule with nothing to thaw, or a moment at
            which nothing at all would train.
    """
    names = tuple(tensor_names)
    initial = parse_freeze(freeze, stages, names)
    later = {
        UnfreezeKind.never: lambda: (),
        UnfreezeKind.gradual: lambda: _gradual(unfreeze, initial, stages, names),
        UnfreezeKind.lp_ft: lambda: _lp_ft(unfreeze, initial, stages, names),
        UnfreezeKind.at: lambda: _at(unfreeze, stages, names),
    }[unfreeze.kind]()
    schedule = Schedule(kind=unfreeze.kind, moments=(Moment(at=START, frozen=initial), *later))
    for moment in schedule.moments:
        if set(names) <= moment.frozen.names:
            raise InputError(
                f"freeze: expected something left to train, received {moment.frozen.expression}, which freezes every"
                f" parameter{f' from {moment.at} on' if moment.at != START else ''}; try backbone"
            )
    return schedule


def _gradual(unfreeze: UnfreezeConfig, initial: Frozen, stages: Stages, names: Sequence[str]) -> tuple[Moment, ...]:
    """ULMFiT's gradual unfreezing: from the head down, one more stage each time [Howard & Ruder 2018]."""
    touched = {stages.stage_of(name) for name in initial.names}
    thawing = [stage for stage in reversed((*stages.names, HEAD)) if stage in touched]
    if not thawing:
        raise _nothing_to_thaw("gradual", initial)
    start, every = parse_duration(unfreeze.start, "unfreeze.start"), parse_duration(unfreeze.every, "unfreeze.every")
    if every.amount == 0:
        raise InputError(f"unfreeze.every: expected more than nothing, received {unfreeze.every!r}; try 1 epoch")
    if start.unit is not every.unit and start.amount:
        raise InputError(
            f"unfreeze.start: expected the unit of unfreeze.every ({every}), received {start}; try {every}"
        )
    moments: list[Moment] = []
    frozen = initial
    for count, stage in enumerate(thawing):
        frozen = without_stage(frozen, stage, stages, names)
        moments.append(Moment(at=Duration(start.amount + count * every.amount, every.unit), frozen=frozen))
    return tuple(moments)


def _lp_ft(unfreeze: UnfreezeConfig, initial: Frozen, stages: Stages, names: Sequence[str]) -> tuple[Moment, ...]:
    """First the head alone, then everything [Kumar et al. 2022]."""
    if not initial.names:
        raise _nothing_to_thaw("lp_ft", initial)
    if set(initial.stages) != set(stages.names):
        raise InputError(
            f"freeze: expected backbone, since unfreeze=lp_ft begins with the head alone, received"
            f" {initial.expression}; try freeze=backbone, or unfreeze=at for other spans"
        )
    start = parse_duration(unfreeze.start, "unfreeze.start")
    return (Moment(at=start, frozen=nothing_frozen(stages, names)),)


def _at(unfreeze: UnfreezeConfig, stages: Stages, names: Sequence[str]) -> tuple[Moment, ...]:
    if not unfreeze.table:
        raise InputError(
            'unfreeze.table: expected moments with freeze expressions, received none; try {"3 epochs": none}'
        )
    return tuple(
        Moment(
            at=parse_duration(moment, "unfreeze.table"),
            frozen=parse_freeze(expression, stages, names, f"unfreeze.table[{moment}]"),
        )
        for moment, expression in unfreeze.table.items()
    )


def _nothing_to_thaw(kind: str, initial: Frozen) -> InputError:
    return InputError(
        f"unfreeze: expected something frozen to thaw, received unfreeze={kind} with freeze={initial.expression};"
        " try freeze=backbone, or unfreeze=never"
    )
