"""What a run will do, before it does anything: computed on the meta device, immutable, printable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from graft.audit.copies import Copies, find_copies
from graft.config.choices import FIND
from graft.config.faults import Faults
from graft.config.schema import Config, OptimizerConfig, TrainerConfig
from graft.data.table import Table
from graft.finetune.groups import Group, without_decay
from graft.finetune.hardware import precisions
from graft.finetune.methods import methods_in_words
from graft.finetune.methods.lora import plain_name
from graft.finetune.optimizer import state_numbers
from graft.finetune.training_plan import Timeline, TrainingPlan, plan_training
from graft.finetune.unfreeze import Phase, thawed
from graft.models.network import Network, network_for, with_donor_preprocess
from graft.models.stage_head import head_in_words
from graft.models.stages import HEAD, tensor_names
from graft.plan.batches import fewest_images
from graft.plan.checks import altered_layers, check_monitor, check_not_random, norm_policy
from graft.plan.features import CachePlan, prefix_in_words
from graft.plan.head_start import StartPlan, plan_start
from graft.plan.memory import Memory, activations_of, estimate_memory
from graft.plan.methods import anchors_of, lora_of, numbers_beside, schedule_of, teacher_of
from graft.plan.solver import SolverPlan, plan_features
from graft.tasks.registry import task_of
from graft.tasks.task import Task
from graft.transfer import Donor, Ledger, account_donor, target_of_module
from graft.transfer.chosen import rules_for
from graft.transfer.teacher import TeacherPlan
from graft.transfer.verify import check_verifiable


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """A stage's size."""

    name: str
    parameters: int
    buffers: int
    frozen: bool
    """At the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that follows from a config, its data and its donor's names; nothing has been done yet."""

    config: Config
    table: Table
    copies: Copies
    """Its images that show the same."""
    task: Task
    """What labels and outputs mean."""
    network: Network
    """On the meta device: names and shapes without values."""
    ledger: Ledger
    training: TrainingPlan
    """Steps, phases, groups and rates, as they are carried out."""
    undecayed: Mapping[str, str]
    """What trains without weight decay, and why."""
    anchored: frozenset[str]
    """The weights that method.l2_sp draws back to the donor's."""
    lora: tuple[str, ...]
    """Paths of the layers that method.lora adds to."""
    teacher: TeacherPlan | None
    """The donor's own network, which method.distill holds the network to."""
    stages: tuple[StageRow, ...]
    trainable: int
    """Parameters that train in some phase, or may."""
    total: int
    memory: Memory
    cache: CachePlan
    solver: SolverPlan
    """How the head is trained."""
    start: StartPlan
    """What the head begins with."""
    blocks: Network | None
    """Where the head is solved: the network with head=stages, on whose features any linear head can be solved."""
    fewest: int
    """Images that a training batch must hold: 2 where a batch-norm trains on one value a channel of an image."""
    remarks: tuple[str, ...]
    rate_found: bool = False
    """By a range test; else optimizer.lr is as it was given, or still to be found."""

    @property
    def finds_rate(self) -> bool:
        """Whether optimizer.lr is to be found; until then every rate here is a multiple of it."""
        return self.config.optimizer.lr == FIND

    def with_rate(self, rate: float) -> Plan:
        """The plan as it is once the rate has been found."""
        optimizer = replace(self.config.optimizer, lr=rate)
        config, training = replace(self.config, optimizer=optimizer), self.training.derived(optimizer=optimizer)
        return replace(self, config=config, training=training, rate_found=True)

    def with_step(self, trainer: TrainerConfig, optimizer: OptimizerConfig) -> Plan:
        """The plan as it is once the way to compute a step has been chosen."""
        config = replace(self.config, trainer=trainer, optimizer=optimizer)
        prefix = prefix_in_words(config.trainer, config.method) if self.cache.prefix else ""
        training = self.training.derived(optimizer=replace(optimizer, lr=self.training.optimizer.lr))
        return replace(self, config=config, training=training, cache=replace(self.cache, prefix=prefix))

    @property
    def precision(self) -> dict[str, str]:
        """Of training and of evaluation."""
        return precisions(self.config.trainer)

    @property
    def methods(self) -> tuple[str, ...]:
        """What is done beside plain fine-tuning, in words."""
        return methods_in_words(self.config)

    def rates(self, group: Group) -> list[tuple[float, float, float] | None]:
        """The group's first, highest and last learning rate in each phase; None where it is frozen."""
        return [self.training.rates.span(group, phase) for phase in self.training.phases]

    def data_record(self) -> dict[str, Any]:
        """What is learnt from, for plan.json and the model's record."""
        data = self.config.data
        return {"kind": data.kind.value, **self.table.summary(), "copies": self.copies.record(data.accept)}

    def to_dict(self) -> dict[str, Any]:
        """plan.json."""
        config, training = self.config, self.training
        return {
            "backbone": config.backbone.name,
            "head": {**self.network.head, "at": list(self.network.stages.heads)},
            "classes": list(self.table.classes),
            "task": self.task.record(),
            "data": self.data_record(),
            "preprocess": asdict(self.network.preprocess),
            "donor": self.ledger.donor,
            "ledger": self.ledger.summary,
            "freeze": config.freeze,
            "unfreeze": config.unfreeze.kind.value,
            "lr": None if self.finds_rate else config.optimizer.lr,
            "lr_source": "to be found" if self.finds_rate else "found" if self.rate_found else "given",
            "solver": self.solver.to_dict(),
            "head_start": self.start.to_dict(),
            "epochs": 0 if self.solver.solves else config.trainer.max_epochs,
            "batch_size": config.data.images,
            "steps_per_epoch": training.steps_per_epoch,
            "steps": 0 if self.solver.solves else training.total_steps,
            "stages": [asdict(row) for row in self.stages],
            "phases": [phase.to_dict() for phase in training.phases],
            "decided": self._decided(),
            "thaw_warmup_steps": training.rates.warmup,
            "groups": [
                {
                    "name": group.name,
                    "stage": group.stage,
                    "parameters": group.parameters,
                    "factor": group.factor,
                    "weight_decay": group.weight_decay,
                    "rates": None if self.finds_rate else self.rates(group),
                }
                for group in training.groups
            ],
            "no_decay": dict(self.undecayed),
            "parameters": {
                "total": self.total,
                "trainable": self.trainable,
                "frozen": self.total - self.trainable,
            },
            "methods": list(self.methods),
            "memory": {**asdict(self.memory), "total": self.memory.total},
            "precision": self.precision,
            "cache": self.cache.to_dict(),
            "remarks": list(self.remarks),
        }

    def _decided(self) -> dict[str, Any] | None:
        plateau = self.training.schedule.plateau
        if plateau is None:
            return None
        return {
            "by": plateau.monitor,
            "rule": str(plateau),
            "states": [
                {"frozen": state.expression, "frozen_stages": list(state.stages)} for state in self.training.undecided
            ],
        }


def make_plan(config: Config, table: Table, open_donor: Callable[[], Donor], overrides: Sequence[str] = ()) -> Plan:
    """Computes the plan.

    Args:
        open_donor: opens the donor, of which names, shapes and dtypes are read.
        overrides: what was typed; the plan names those words that have no effect.

    Raises:
        InputError: everything that is wrong between config, data and donor, together.
    """
    network = network_for(config, len(table.classes), device="meta")
    timeline = Timeline(
        images=len(table.train), epochs=config.trainer.max_epochs, batch_size=config.data.images,
        accumulate=config.trainer.accumulate, processes=config.trainer.devices * config.trainer.num_nodes,
    )  # fmt: skip
    faults = Faults()
    task = task_of(config.data.task, table.classes, table.labels_of("train"))
    faults.attempt(lambda: task.criterion(config.loss))
    faults.attempt(lambda: check_monitor(config.checkpoint.monitor, table))
    ledger = faults.attempt(lambda: _account(config, network, table, open_donor))
    teacher = faults.attempt(lambda: teacher_of(config, network, ledger, open_donor)) if ledger else None
    lora = (
        faults.attempt(lambda: lora_of(config.method, network, channels=config.data.channels))
        if config.method.lora
        else ()
    )
    start = faults.attempt(lambda: plan_start(config, network)) or StartPlan(solved=False, reason="")
    schedule = faults.attempt(lambda: schedule_of(config, network, begins_solved=start.solved))
    states = schedule.states(timeline.steps_per_epoch, timeline.total_steps) if schedule else []
    never = frozenset[str].intersection(*(state.names for state in states)) if states else frozenset[str]()
    anchors = faults.attempt(lambda: anchors_of(config.method, network, ledger, never)) if ledger and schedule else None
    anchors = anchors or frozenset[str]()
    fewest = faults.attempt(
        lambda: fewest_images(
            table, network, states, config.freeze_bn, batch=config.data.images, processes=timeline.processes
        )
    )
    optimizer = replace(config.optimizer, lr=1.0) if config.optimizer.lr == FIND else config.optimizer
    training = faults.attempt(
        lambda: plan_training(
            network.module, network.stages, timeline, schedule or thawed(network.stages, network.names),
            optimizer=optimizer, scheduler=config.scheduler, anchored=anchors,
            freeze_bn=config.freeze_bn, on_nan=config.trainer.on_nan, seed=config.seed,
        )
    )  # fmt: skip
    trained = frozenset(name for group in training.groups for name in group.names) if training else frozenset[str]()
    state = faults.attempt(lambda: _optimizer_state(network, trained, config.optimizer)) or 0
    if ledger and schedule:
        faults.attempt(lambda: check_not_random(ledger, frozenset(plain_name(name) for name in never)))
    faults.settle()
    assert ledger is not None
    assert training is not None
    assert fewest is not None
    network = with_donor_preprocess(network, config, ledger.preprocess)
    cache, solver, blocks = plan_features(config, table, network, training, overrides)
    return Plan(
        config=config,
        table=table,
        copies=find_copies(table),
        task=task,
        network=network,
        ledger=ledger,
        training=training,
        undecayed=without_decay(network.module, training.groups, config.optimizer),
        anchored=anchors,
        lora=lora or (),
        teacher=teacher,
        stages=_stage_rows(network, training.phases[0]),
        trainable=sum(group.parameters for group in training.groups),
        total=sum(parameter.numel() for parameter in network.module.parameters()),
        memory=estimate_memory(
            network.module, activations=activations_of(network, config.data.channels, trained),
            batch_size=config.data.images, trainable=trained, state=state,
            beside=numbers_beside(config.method, network, trained, anchors, teacher),
        ),
        cache=cache,
        solver=solver,
        start=start,
        blocks=blocks,
        fewest=fewest,
        remarks=(
            *ledger.remarks,
            *network.remarks,
            *altered_layers(network),
            *filter(None, [head_in_words(network.head, network.build)]),
            *training.schedule.unreached(training.steps_per_epoch, training.total_steps),
            *norm_policy(config.freeze_bn, network, states),
        ),
    )  # fmt: skip


def _optimizer_state(network: Network, trained: frozenset[str], optimizer: OptimizerConfig) -> int:
    shapes = [parameter.shape for name, parameter in network.module.named_parameters() if name in trained]
    return state_numbers(shapes, optimizer)


def _account(config: Config, network: Network, table: Table, open_donor: Callable[[], Donor]) -> Ledger:
    with open_donor() as donor:
        ledger = account_donor(donor, target_of_module(network.module), rules_for(config, network, table.classes))
    if config.donor.verify:
        check_verifiable(ledger, network.stages)
    return ledger


def _stage_rows(network: Network, first: Phase) -> tuple[StageRow, ...]:
    parameters = dict(network.module.named_parameters())
    state = tensor_names(network.module)
    buffers = dict(network.module.named_buffers())
    return tuple(
        StageRow(
            name=stage,
            parameters=sum(parameters[name].numel() for name in names if name in parameters),
            buffers=sum(buffers[name].numel() for name in names if name in buffers),
            frozen=stage in first.frozen.stages,
        )
        for stage in (*network.stages.names, HEAD)
        for names in [network.stages.tensors(stage, state)]
    )
