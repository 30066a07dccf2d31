"""Unfreeze schedules: a schedule is a table of moments, and the freeze state is a pure function of the table and the
step.

Nothing here is an event: a run that resumes at a step calls `frozen_at` and gets the same state as an uninterrupted
run. What depends on the training, such as a stalled metric, enters as decisions: the steps at which the next state
begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from graft.config.duration import Duration, Unit
from graft.config.faults import InputError
from graft.config.import_path import OwnCode, function_of
from graft.config.schema import CheckpointConfig, UnfreezeConfig, UnfreezeKind
from graft.finetune.freeze import Frozen, nothing_frozen, parse_freeze, without_stage
from graft.finetune.plateau import Plateau
from graft.models.stages import HEAD, Stages

KEY = "unfreeze.target"
HUNDREDTHS = 100
START = Duration(0, Unit.steps)
FIRST_THAW = Duration(1, Unit.epochs)  # where unfreeze.start is not given


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A point in the training from which `frozen` applies."""

    at: Duration
    frozen: Frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A span of training with one freeze state. Steps are optimizer steps; `stop_step` is exclusive."""

    start_step: int
    stop_step: int
    start_epoch: float
    frozen: Frozen
    factor: float = 1.0
    """Factor on every learning rate."""

    def to_dict(self) -> dict[str, Any]:
        """The entry in plan.json and metrics.json."""
        return {
            "start_epoch": self.start_epoch,
            "start_step": self.start_step,
            "stop_step": self.stop_step,
            "frozen": self.frozen.expression,
            "frozen_stages": list(self.frozen.stages),
            "factor": self.factor,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The freeze states of a training, each with its moment. The first applies from the start."""

    kind: UnfreezeKind
    moments: tuple[Moment, ...]
    plateau: Plateau | None = None
    """The states whose start depends on the training."""
    factors: tuple[float, ...] = ()
    """Factors on every learning rate, one per phase; the last one also applies to later phases."""
    warmup: Duration = START
    """Duration of the warm-up of newly unfrozen parameters."""

    @property
    def table(self) -> tuple[Frozen, ...]:
        """Every state in the schedule, by moment or by decision, whether or not the training is long enough to reach
        it."""
        return (*(moment.frozen for moment in self.moments), *(self.plateau.releases if self.plateau else ()))

    def frozen_at(self, step: int, steps_per_epoch: int, total_steps: int, decisions: Sequence[int] = ()) -> Frozen:
        """The freeze state in optimizer step `step` (counted from 0).

        Args:
            decisions: the steps from which the next states of unfreeze=plateau apply, as decided so far.
        """
        current = self.moments[0].frozen
        for start, frozen in self._starts(steps_per_epoch, total_steps, decisions):
            if start <= step:
                current = frozen
        return current

    def phases(self, steps_per_epoch: int, total_steps: int, decisions: Sequence[int] = ()) -> list[Phase]:
        """The spans of this training. Moments at or after its end start none."""
        starts = [
            (start, frozen)
            for start, frozen in self._starts(steps_per_epoch, total_steps, decisions)
            if start < total_steps
        ]
        spans: list[tuple[int, Frozen]] = []
        for start, frozen in starts:
            if spans and spans[-1][0] == start:
                spans.pop()
            if not spans or spans[-1][1].names != frozen.names:
                spans.append((start, frozen))
        stops = [start for start, _ in spans[1:]] + [total_steps]
        return [
            Phase(
                start_step=start,
                stop_step=stop,
                start_epoch=start / steps_per_epoch,
                frozen=frozen,
                factor=self.factor_of(place),
            )
            for place, ((start, frozen), stop) in enumerate(zip(spans, stops, strict=True))
        ]

    def factor_of(self, place: int) -> float:
        """The factor on every rate in the phase with this index, counted from 0."""
        return self.factors[min(place, len(self.factors) - 1)] if self.factors else 1.0

    def states(self, steps_per_epoch: int, total_steps: int) -> list[Frozen]:
        """Every freeze state that this training can reach, whatever is decided."""
        states = [phase.frozen for phase in self.phases(steps_per_epoch, total_steps)]
        return [*states, *(self.plateau.reachable(total_steps // steps_per_epoch) if self.plateau else ())]

    def never_trained(self, steps_per_epoch: int, total_steps: int) -> frozenset[str]:
        """Tensors that are frozen in every state."""
        return frozenset.intersection(*(state.names for state in self.states(steps_per_epoch, total_steps)))

    def decide(self, history: Sequence[Mapping[str, Any]], steps_per_epoch: int) -> list[int]:
        """The decisions that follow from the metrics of the epochs so far, one row per epoch."""
        if self.plateau is None:
            return []
        values = [float(row[self.plateau.monitor]) for row in history]
        return [(epoch + 1) * steps_per_epoch for epoch in self.plateau.decided(values)]

    def unreached(self, steps_per_epoch: int, total_steps: int) -> list[str]:
        """A remark on each moment at or after the end of the training, and on states that no decision can reach."""
        epochs = total_steps // steps_per_epoch
        late = self.plateau.releases[len(self.plateau.reachable(epochs)) :] if self.plateau else ()
        too_late = [
            f"unfreeze: {epochs} epochs leave no time for the last {len(late)} states of {self.kind.value}"
            f" ({', '.join(str(frozen) for frozen in late)})"
        ]
        return (too_late if late else []) + [
            f"unfreeze: {moment.at} is step {moment.at.steps(steps_per_epoch, total_steps)} of {total_steps},"
            f" so what would be frozen then ({moment.frozen}) never comes about"
            for moment in self.moments
            if moment.at.steps(steps_per_epoch, total_steps) >= total_steps
        ]

    def _starts(
        self, steps_per_epoch: int, total_steps: int, decisions: Sequence[int] = ()
    ) -> list[tuple[int, Frozen]]:
        starts = [(moment.at.steps(steps_per_epoch, total_steps), moment.frozen) for moment in self.moments]
        if self.plateau is not None:
            starts += zip(decisions, self.plateau.releases[: len(decisions)], strict=True)
        return sorted(starts, key=lambda start: start[0])  # stable: of two at one step, the later in the table holds


def thawed(stages: Stages, tensor_names: Sequence[str]) -> Schedule:
    """The schedule that trains everything from the start."""
    everything = nothing_frozen(stages, tensor_names)
    return Schedule(kind=UnfreezeKind.never, moments=(Moment(at=START, frozen=everything),))


def make_schedule(
    unfreeze: UnfreezeConfig,
    freeze: str | Sequence[str],
    stages: Stages,
    tensor_names: Iterable[str],
    *,
    checkpoint: CheckpointConfig | None = None,
) -> Schedule:
    """The schedule that `freeze` and `unfreeze` describe.

    Args:
        checkpoint: its monitored metric drives unfreeze=plateau.

    Raises:
        InputError: an expression or a duration is invalid, the schedule has nothing to unfreeze, or nothing at all
            would train at some moment.
    """
    names = tuple(tensor_names)
    initial = parse_freeze(freeze, stages, names)
    later = {
        UnfreezeKind.never: lambda: (),
        UnfreezeKind.gradual: lambda: _gradual(unfreeze, initial, stages, names),
        UnfreezeKind.lp_ft: lambda: _lp_ft(unfreeze, initial, stages, names),
        UnfreezeKind.at: lambda: _at(unfreeze, stages, names),
        UnfreezeKind.plateau: lambda: (),
        UnfreezeKind.custom: lambda: _own(unfreeze, initial, stages, names),
    }[unfreeze.kind]()
    decided = unfreeze.kind is UnfreezeKind.plateau
    schedule = Schedule(
        kind=unfreeze.kind,
        moments=(Moment(at=START, frozen=initial), *later),
        plateau=_plateau(unfreeze, initial, stages, names, checkpoint or CheckpointConfig()) if decided else None,
        factors=tuple(unfreeze.phase_factors),
        warmup=unfreeze.warmup,
    )
    _check_factors(schedule)
    for moment in schedule.moments:
        if set(names) <= moment.frozen.names:
            raise InputError(
                f"freeze: expected something left to train, received {moment.frozen.expression}, which freezes every"
                f" parameter{f' from {moment.at} on' if moment.at != START else ''}; try backbone"
            )
    return schedule


def _check_factors(schedule: Schedule) -> None:
    most = len(schedule.moments) + (len(schedule.plateau.releases) if schedule.plateau else 0)
    if len(schedule.factors) > most:
        raise InputError(
            f"unfreeze.phase_factors: expected at most {most} factors, one a phase, received {len(schedule.factors)};"
            f" try [{','.join(f'{factor:g}' for factor in schedule.factors[:most])}]"
        )


def _from_the_head_down(kind: UnfreezeKind, initial: Frozen, stages: Stages, names: Sequence[str]) -> list[Frozen]:
    """The states after the initial one if one more stage is unfrozen each time."""
    touched = {stages.stage_of(name) for name in initial.names}
    thawing = [stage for stage in reversed((*stages.names, HEAD)) if stage in touched]
    if not thawing:
        raise _nothing_to_thaw(kind.value, initial)
    states: list[Frozen] = []
    for stage in thawing:
        states.append(without_stage(states[-1] if states else initial, stage, stages, names))
    return states


def _plateau(
    unfreeze: UnfreezeConfig, initial: Frozen, stages: Stages, names: Sequence[str], checkpoint: CheckpointConfig
) -> Plateau:
    """Like gradual, but each time the metric that also selects the best epoch has stalled."""
    return Plateau(
        monitor=checkpoint.monitor,
        falls=checkpoint.direction == "min",
        patience=unfreeze.patience,
        min_delta=unfreeze.min_delta,
        releases=tuple(_from_the_head_down(UnfreezeKind.plateau, initial, stages, names)),
    )


def _gradual(unfreeze: UnfreezeConfig, initial: Frozen, stages: Stages, names: Sequence[str]) -> tuple[Moment, ...]:
    """ULMFiT's gradual unfreezing: one more stage each time, from the head down [Howard & Ruder 2018]."""
    states = _from_the_head_down(UnfreezeKind.gradual, initial, stages, names)
    start, every = _first_thaw(unfreeze), unfreeze.every
    if every.amount == 0:
        raise InputError(f"unfreeze.every: expected more than nothing, received {every.source!r}; try 1 epoch")
    if start.unit is not every.unit and start.amount:
        raise InputError(
            f"unfreeze.start: expected the unit of unfreeze.every ({every}), received {start}; try {every}"
        )
    return tuple(
        Moment(at=Duration(start.amount + count * every.amount, every.unit), frozen=frozen)
        for count, frozen in enumerate(states)
    )


def _lp_ft(unfreeze: UnfreezeConfig, initial: Frozen, stages: Stages, names: Sequence[str]) -> tuple[Moment, ...]:
    """First the head alone, then everything [Kumar et al. 2022]."""
    if not initial.names:
        raise _nothing_to_thaw("lp_ft", initial)
    if set(initial.stages) != set(stages.names):
        raise InputError(
            f"freeze: expected backbone, since unfreeze=lp_ft begins with the head alone, received"
            f" {initial.expression}; try freeze=backbone, or unfreeze=at for other spans"
        )
    return (Moment(at=_first_thaw(unfreeze), frozen=nothing_frozen(stages, names)),)


def _first_thaw(unfreeze: UnfreezeConfig) -> Duration:
    return FIRST_THAW if unfreeze.start is None else unfreeze.start


def _at(unfreeze: UnfreezeConfig, stages: Stages, names: Sequence[str]) -> tuple[Moment, ...]:
    if not unfreeze.table:
        raise InputError(
            'unfreeze.table: expected moments with freeze expressions, received none; try {"3 epochs": none}'
        )
    return tuple(
        Moment(
            at=moment,
            frozen=parse_freeze(expression, stages, names, f"unfreeze.table[{moment.source}]"),
        )
        for moment, expression in unfreeze.table.items()
    )


def _own(unfreeze: UnfreezeConfig, initial: Frozen, stages: Stages, names: Sequence[str]) -> tuple[Moment, ...]:
    """The states of a function of progress, which is called for each hundredth of the training."""
    path, moments = str(unfreeze.target), [Moment(at=START, frozen=initial)]
    function = function_of(KEY, path, unfreeze.kwargs, 0.0)
    for hundredth in range(HUNDREDTHS):
        progress = hundredth / HUNDREDTHS
        with OwnCode(f"{KEY}: expected {path} to return a freeze expression at a progress of {progress:g}"):
            expression = function(progress)
        texts = [expression] if isinstance(expression, str) else expression
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in cast(Sequence[Any], texts)):
            raise InputError(
                f"{KEY}: expected {path} to return a freeze expression, or a list of prefixes, received "
                f"{expression!r} at a progress of {progress:g}; try none, backbone or layer1-3"
            )
        frozen = parse_freeze(expression, stages, names, f"{KEY} at a progress of {progress:g}")
        if hundredth == 0 and frozen.names != initial.names:
            raise InputError(
                f"freeze: expected {expression}, which {path} returns at the start, received {initial.expression}; try "
                f"freeze={expression}"
            )
        if frozen.names != moments[-1].frozen.names:
            moments.append(Moment(at=Duration(progress, Unit.fraction), frozen=frozen))
    return tuple(moments[1:])


def _nothing_to_thaw(kind: str, initial: Frozen) -> InputError:
    return InputError(
        f"unfreeze: expected something frozen to thaw, received unfreeze={kind} with freeze={initial.expression};"
        " try freeze=backbone, or unfreeze=never"
    )
