"""The plan of all steps of a training, computed once before it begins. `FineTuning` carries it out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from graft.config.faults import Faults, InputError
from graft.config.schema import FreezeBatchNorm, OnError, OptimizerConfig, SchedulerConfig, UnfreezeKind
from graft.data.sampling import batches_of
from graft.finetune.freeze import Frozen
from graft.finetune.groups import Group, group_parameters
from graft.finetune.optimizer import Factor, rate_factor
from graft.finetune.rates import Rates
from graft.finetune.unfreeze import START, Moment, Phase, Schedule
from graft.models.stages import Stages


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The number of batches and optimizer steps per epoch and in total.

    Raises:
        InputError: there is no epoch, or no batch per step.
    """

    images: int
    """Number of training images."""
    epochs: int
    batch_size: int
    """Images per batch and process."""
    accumulate: int = 1
    """Batches per step; the last step of an epoch may have fewer."""
    processes: int = 1

    def __post_init__(self) -> None:
        for key, value in {"trainer.max_epochs": self.epochs, "trainer.accumulate": self.accumulate}.items():
            if value < 1:
                raise InputError(f"{key}: expected 1 or more, received {value!r}")

    @property
    def batches_per_epoch(self) -> int:
        """Batches per epoch and process."""
        return batches_of(self.images, self.batch_size, world=self.processes)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.batches_per_epoch / self.accumulate)

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """Steps, freeze states, parameter groups and learning rates of a training.

    Nothing in it is computed again during training. Later results (a learning rate, a faster step, a smaller batch, a
    decision of unfreeze=plateau) make a new plan from it: see `derived`.
    """

    stages: Stages
    timeline: Timeline
    schedule: Schedule
    states: tuple[Frozen, ...]
    """Every freeze state that the training can reach, whatever is decided."""
    phases: tuple[Phase, ...]
    """The phases whose start is known."""
    groups: tuple[Group, ...]
    rates: Rates
    optimizer: OptimizerConfig
    """If the learning rate is still to be found, its lr is 1, so that every rate is a multiple of it."""
    freeze_bn: FreezeBatchNorm = FreezeBatchNorm.frozen
    on_nan: OnError = OnError.stop
    seed: int = 0
    decisions: tuple[int, ...] = ()
    """The steps from which the next states of unfreeze=plateau apply, as decided so far."""

    @property
    def steps_per_epoch(self) -> int:
        return self.timeline.steps_per_epoch

    @property
    def total_steps(self) -> int:
        return self.timeline.total_steps

    @property
    def never_trained(self) -> frozenset[str]:
        """Names of the tensors that are frozen in every state."""
        return frozenset.intersection(*(state.names for state in self.states))

    @property
    def undecided(self) -> tuple[Frozen, ...]:
        """The states after the phases whose start depends on the training."""
        return self.states[len(self.phases) :]

    @property
    def longest_phase(self) -> Phase:
        """The phase with the most steps; the first one if several are equal."""
        return max(self.phases, key=lambda phase: phase.stop_step - phase.start_step)

    def rate_at(self, step: int) -> float:
        """The learning rate in optimizer step `step`, counted from 0, before any group's factor."""
        return self.optimizer.rate * self.rates.base(step)

    def derived(
        self,
        *,
        optimizer: OptimizerConfig | None = None,
        batches: tuple[int, int] | None = None,
        decisions: Sequence[int] | None = None,
        phase: Phase | None = None,
        curve: Factor | None = None,
    ) -> TrainingPlan:
        """The plan with a change. Parts that do not depend on it remain the same objects.

        Args:
            optimizer: another learning rate or implementation.
            batches: another batch size and batches per step. Their product, and so every step, stays the same.
            decisions: all decisions of the schedule so far.
            phase: the single phase of the whole training, as in a trial.
            curve: another factor on every rate, by step.
        """
        plan = self
        if optimizer is not None:
            groups = tuple(replace(group, lr=optimizer.rate * group.factor) for group in plan.groups)
            plan = replace(plan, optimizer=optimizer, groups=groups)
        if batches is not None:
            size, accumulate = batches
            timeline = replace(plan.timeline, batch_size=size, accumulate=accumulate)
            assert timeline.total_steps == plan.total_steps, "other batches make the same steps"
            plan = replace(plan, timeline=timeline)
        if decisions is not None:
            phases = plan.schedule.phases(plan.steps_per_epoch, plan.total_steps, decisions)
            plan = replace(plan, decisions=tuple(decisions), phases=tuple(phases))
        if phase is not None:
            plan = _within(plan, phase)
        rates = Rates(curve or plan.rates.curve, plan.phases, plan.rates.warmup)
        return replace(plan, rates=rates)


def _within(plan: TrainingPlan, phase: Phase) -> TrainingPlan:
    """The plan of a training with only this phase, without the groups that it freezes."""
    frozen = phase.frozen
    return replace(
        plan,
        schedule=Schedule(
            kind=UnfreezeKind.never, moments=(Moment(at=START, frozen=frozen),), factors=(phase.factor,)
        ),
        states=(frozen,),
        phases=(replace(phase, start_step=0, stop_step=plan.total_steps, start_epoch=0.0),),
        groups=tuple(group for group in plan.groups if group.names[0] not in frozen.names),
    )  # fmt: skip


def plan_training(
    module: nn.Module,
    stages: Stages,
    timeline: Timeline,
    schedule: Schedule,
    *,
    optimizer: OptimizerConfig,
    scheduler: SchedulerConfig,
    anchored: frozenset[str] = frozenset(),
    freeze_bn: FreezeBatchNorm = FreezeBatchNorm.frozen,
    on_nan: OnError = OnError.stop,
    seed: int = 0,
) -> TrainingPlan:
    """Computes the plan.

    Args:
        module: the network, of which only names and shapes are read; it may be on the meta device.
        anchored: names of the parameters without weight decay because method.l2_sp pulls them elsewhere.

    Raises:
        InputError: lists everything that is wrong with schedule, optimizer and scheduler.
    """
    steps_per_epoch, total_steps = timeline.steps_per_epoch, timeline.total_steps
    states = tuple(schedule.states(steps_per_epoch, total_steps))
    faults = Faults()
    curve = faults.attempt(lambda: rate_factor(scheduler, steps_per_epoch=steps_per_epoch, total_steps=total_steps))
    groups = faults.attempt(
        lambda: group_parameters(module, stages, optimizer, [state.names for state in states], anchored)
    )
    faults.settle()
    assert curve is not None
    assert groups is not None
    phases = tuple(schedule.phases(steps_per_epoch, total_steps))
    warmup = schedule.warmup.steps(steps_per_epoch, total_steps)
    return TrainingPlan(
        stages=stages, timeline=timeline, schedule=schedule, states=states, phases=phases, groups=tuple(groups),
        rates=Rates(curve, phases, warmup), optimizer=optimizer, freeze_bn=freeze_bn, on_nan=on_nan, seed=seed,
    )  # fmt: skip
