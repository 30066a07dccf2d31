"""The course of a training, from a config and a network without values: phases, groups and methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from graft.config.choices import FIND
from graft.config.faults import Faults
from graft.config.schema import Config, OptimizerConfig
from graft.data.table import Table
from graft.finetune.freeze import Frozen
from graft.finetune.methods.lora import plain_name
from graft.finetune.optimizer import state_numbers
from graft.finetune.training_plan import Timeline, TrainingPlan, plan_training
from graft.finetune.unfreeze import thawed
from graft.models.network import Network
from graft.plan.batches import fewest_images
from graft.plan.checks import check_not_random
from graft.plan.head_start import StartPlan, plan_start
from graft.plan.methods import anchors_of, lora_of, schedule_of, teacher_of
from graft.transfer import Donor, Ledger
from graft.transfer.teacher import TeacherPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The training plan of a network, and what belongs to it."""

    training: TrainingPlan
    states: Sequence[Frozen]
    """All freeze states that the schedule reaches, or may reach."""
    start: StartPlan
    lora: tuple[str, ...]
    teacher: TeacherPlan | None
    anchors: frozenset[str]
    fewest: int
    optimizer_state: int
    """Number of values in the optimizer's state."""


def plan_course(
    config: Config,
    table: Table,
    network: Network,
    ledger: Ledger | None,
    open_donor: Callable[[], Donor],
    faults: Faults,
) -> Course | None:
    """The course of the training; None if there is a fault. LoRA's weights are added to the network here, after the
    transfer was accounted for."""
    timeline = Timeline(
        images=len(table.train), epochs=config.trainer.epochs, batch_size=config.data.images,
        accumulate=config.trainer.accumulate, processes=config.trainer.devices * config.trainer.num_nodes,
    )  # fmt: skip
    method = config.method
    teacher = lora = anchors = None
    if ledger and method.distill:
        teacher = faults.attempt(lambda: teacher_of(config.network, network, ledger, open_donor))
    if method.lora:
        lora = faults.attempt(lambda: lora_of(method, network, channels=config.data.channels))
    start = faults.attempt(lambda: plan_start(config.network, config.freezing, network))
    start = start or StartPlan(solved=False, reason="")
    schedule = faults.attempt(
        lambda: schedule_of(config.freezing, network, config.checkpoint, begins_solved=start.solved)
    )
    states = schedule.states(timeline.steps_per_epoch, timeline.total_steps) if schedule else []
    never = frozenset[str].intersection(*(state.names for state in states)) if states else frozenset[str]()
    if ledger and schedule:
        anchors = faults.attempt(lambda: anchors_of(method, network, ledger, never))
    fewest = faults.attempt(
        lambda: fewest_images(
            table, network, states, config.freeze_bn, batch=config.data.images, processes=timeline.processes
        )
    )
    optimizer = replace(config.optimizer, lr=1.0) if config.optimizer.lr == FIND else config.optimizer
    training = faults.attempt(
        lambda: plan_training(
            network.module, network.stages, timeline, schedule or thawed(network.stages, network.names),
            optimizer=optimizer, scheduler=config.scheduler, anchored=anchors or frozenset(),
            freeze_bn=config.freeze_bn, on_nan=config.trainer.on_nan, seed=config.seed,
        )
    )  # fmt: skip
    state = faults.attempt(lambda: _optimizer_state(network, training, config.optimizer)) if training else None
    if ledger and schedule:
        faults.attempt(lambda: check_not_random(ledger, frozenset(plain_name(name) for name in never)))
    if training is None or fewest is None or state is None:
        return None
    return Course(
        training=training, states=states, start=start, lora=lora or (), teacher=teacher,
        anchors=anchors or frozenset(), fewest=fewest, optimizer_state=state,
    )  # fmt: skip


def _optimizer_state(network: Network, training: TrainingPlan, optimizer: OptimizerConfig) -> int:
    trained = frozenset(name for group in training.groups for name in group.names)
    shapes = [parameter.shape for name, parameter in network.module.named_parameters() if name in trained]
    return state_numbers(shapes, optimizer)
