"""What a run will do, computed on the meta device before it does anything: immutable and printable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from graft.audit.copies import Copies, find_copies
from graft.audit.groups import Groups, find_groups
from graft.config.choices import FIND
from graft.config.faults import Faults
from graft.config.schema import Config, NetworkConfig, OptimizerConfig, TrainerConfig
from graft.data.own_augmentation import check_augmentation
from graft.data.table import Table
from graft.finetune.groups import Group, without_decay
from graft.finetune.hardware import precisions
from graft.finetune.methods import methods_in_words
from graft.finetune.own_callbacks import check_callbacks, check_loggers
from graft.finetune.training_plan import TrainingPlan
from graft.finetune.unfreeze import Phase
from graft.models.network import Network, network_for, with_donor_preprocess
from graft.models.stage_head import head_in_words
from graft.models.stages import HEAD, tensor_names
from graft.plan.checks import altered_layers, check_monitor, norm_policy
from graft.plan.course import plan_course
from graft.plan.features import CachePlan, prefix_in_words
from graft.plan.geometry import cropped_share
from graft.plan.head_start import StartPlan
from graft.plan.memory import Memory, activations_of, estimate_memory, with_batch_size
from graft.plan.methods import numbers_beside
from graft.plan.recipe import with_recipe
from graft.plan.solver import SolverPlan, plan_features
from graft.tasks.own_metrics import own_metrics
from graft.tasks.registry import task_of
from graft.tasks.task import Task
from graft.transfer import Donor, Ledger, account_donor, target_of_module
from graft.transfer.chosen import rules_for
from graft.transfer.teacher import TeacherPlan
from graft.transfer.verify import check_verifiable


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """The size of a stage."""

    name: str
    parameters: int
    buffers: int
    frozen: bool
    """Whether it is frozen at the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that follows from a config, its data and its donor's metadata. Nothing has been done yet."""

    config: Config
    table: Table
    copies: Copies
    """Duplicate images in the table."""
    groups: Groups
    """The groups of the images (data.group)."""
    task: Task
    """The meaning of labels and outputs."""
    network: Network
    """The network on the meta device: names and shapes without values."""
    ledger: Ledger
    training: TrainingPlan
    """The plan of steps, phases, groups and rates that training carries out."""
    undecayed: Mapping[str, str]
    """Trained parameters without weight decay, each with the reason."""
    anchored: frozenset[str]
    """The weights that method.l2_sp pulls back to the donor's."""
    lora: tuple[str, ...]
    """Paths of the layers that method.lora adapts."""
    teacher: TeacherPlan | None
    """The donor's own network, the teacher for method.distill."""
    stages: tuple[StageRow, ...]
    trainable: int
    """Parameters that train in some phase, or may."""
    total: int
    memory: Memory
    cache: CachePlan
    solver: SolverPlan
    """How the head is trained."""
    start: StartPlan
    """How the head is initialised."""
    blocks: Network | None
    """For a solved head: the network with head=stages, on whose features any linear head can be solved."""
    fewest: int
    """The smallest number of images in a training batch: 2 if a trained batch-norm gets one value per channel from an
    image."""
    remarks: tuple[str, ...]
    cropped: float | None = None
    """The mean share of the images' pixels that the centre crop leaves out; None if not known."""
    rate_found: bool = False
    """Whether the rate comes from a range test. If not, optimizer.lr is as configured, or still to be found."""

    @property
    def finds_rate(self) -> bool:
        """Whether optimizer.lr is still to be found. Until then, every rate here is a multiple of it."""
        return self.config.optimizer.lr == FIND

    def with_rate(self, rate: float) -> Plan:
        """The plan with this learning rate."""
        optimizer = replace(self.config.optimizer, lr=rate)
        config, training = replace(self.config, optimizer=optimizer), self.training.derived(optimizer=optimizer)
        return replace(self, config=config, training=training, rate_found=True)

    def with_step(self, trainer: TrainerConfig, optimizer: OptimizerConfig) -> Plan:
        """The plan with the chosen way to compute a step."""
        config = replace(self.config, trainer=trainer, optimizer=optimizer)
        prefix = prefix_in_words(config.trainer, config.method) if self.cache.prefix else ""
        training = self.training.derived(optimizer=replace(optimizer, lr=self.training.optimizer.lr))
        return replace(self, config=config, training=training, cache=replace(self.cache, prefix=prefix))

    @property
    def precision(self) -> dict[str, str]:
        """Precision of training and of evaluation."""
        return precisions(self.config.trainer)

    @property
    def methods(self) -> tuple[str, ...]:
        """Descriptions of all methods besides plain fine-tuning."""
        return methods_in_words(self.config)

    def rates(self, group: Group) -> list[tuple[float, float, float] | None]:
        """The group's first, highest and last learning rate in each phase; None for a phase that freezes it."""
        return [self.training.rates.span(group, phase) for phase in self.training.phases]

    def data_record(self) -> dict[str, Any]:
        """Description of the data, for plan.json and the model's record."""
        data = self.config.data
        return {
            "kind": data.kind.value,
            **self.table.summary(),
            "copies": self.copies.record(data.accept),
            "groups": self.groups.record(data.accept) if data.group is not None else None,
        }

    def to_dict(self) -> dict[str, Any]:
        """The contents of plan.json."""
        config, training = self.config, self.training
        return {
            "backbone": config.backbone.name,
            "head": {**self.network.head, "at": list(self.network.stages.heads)},
            "classes": list(self.table.classes),
            "task": self.task.record(),
            "data": self.data_record(),
            "preprocess": asdict(self.network.preprocess),
            "cropped": self.cropped,
            "donor": self.ledger.donor,
            "ledger": self.ledger.summary,
            "freeze": config.freeze,
            "unfreeze": config.unfreeze.kind.value,
            "lr": None if self.finds_rate else config.optimizer.lr,
            "lr_source": "to be found" if self.finds_rate else "found" if self.rate_found else "given",
            "solver": self.solver.to_dict(),
            "head_start": self.start.to_dict(),
            "epochs": 0 if self.solver.solves else config.trainer.epochs,
            "batch_size": config.data.images,
            "steps_per_epoch": training.steps_per_epoch,
            "steps": 0 if self.solver.solves else training.total_steps,
            "metrics": list(self.task.own),
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


def make_plan(
    config: Config,
    table: Table,
    open_donor: Callable[[], Donor],
    overrides: Sequence[str] = (),
    *,
    batch_size: int | None = None,
) -> Plan:
    """Computes the plan.

    Args:
        open_donor: opens the donor; only names, shapes and dtypes are read.
        overrides: the arguments of the command line; the plan lists those without effect.
        batch_size: for data.batch_size=auto, the batch size of the run that is being resumed.

    Raises:
        InputError: lists everything that is wrong between config, data and donor.
    """
    network = network_for(config.network, len(table.classes), device="meta")
    config, batches = with_batch_size(config, network, len(table.train), batch_size)
    config, epochs = with_recipe(config, len(table.train))
    faults = Faults()
    task = task_of(config.data.task, table.classes, table.labels_of("train"))
    faults.attempt(lambda: task.criterion(config.loss))
    task.own = faults.attempt(lambda: own_metrics(config.metrics, task.kind, len(table.classes))) or {}
    faults.attempt(lambda: check_callbacks(config.callbacks))
    faults.attempt(lambda: check_loggers(config.logger.own))
    augment, side = config.augment, network.preprocess.image_size
    faults.attempt(lambda: check_augmentation(augment.target, augment.kwargs, (config.data.channels, side, side)))
    faults.attempt(lambda: check_monitor(config.checkpoint.monitor, table))
    ledger = faults.attempt(lambda: _account(config.network, network, table, open_donor))
    course = plan_course(config, table, network, ledger, open_donor, faults)
    faults.settle()
    assert ledger is not None
    assert course is not None
    training, states = course.training, course.states
    trained = frozenset(name for group in training.groups for name in group.names)
    network = with_donor_preprocess(network, config.network, ledger.preprocess)
    cache, solver, blocks = plan_features(config, table, network, training, overrides)
    return Plan(
        config=config,
        table=table,
        copies=find_copies(table),
        groups=find_groups(table, config.data.group),
        task=task,
        network=network,
        ledger=ledger,
        training=training,
        undecayed=without_decay(network.module, training.groups, config.optimizer),
        anchored=course.anchors,
        lora=course.lora,
        teacher=course.teacher,
        stages=_stage_rows(network, training.phases[0]),
        trainable=sum(group.parameters for group in training.groups),
        total=sum(parameter.numel() for parameter in network.module.parameters()),
        memory=estimate_memory(
            network.module, activations=activations_of(network, config.data.channels, trained),
            batch_size=config.data.images, trainable=trained, state=course.optimizer_state,
            beside=numbers_beside(config.method, network, trained, course.anchors, course.teacher),
        ),
        cache=cache,
        solver=solver,
        start=course.start,
        blocks=blocks,
        fewest=course.fewest,
        cropped=cropped_share(table.train, network.preprocess),
        remarks=(
            *filter(None, [batches, epochs]),
            *ledger.remarks,
            *network.remarks,
            *altered_layers(network),
            *filter(None, [head_in_words(network.head, network.build)]),
            *training.schedule.unreached(training.steps_per_epoch, training.total_steps),
            *norm_policy(config.freeze_bn, network, states),
        ),
    )  # fmt: skip


def _account(config: NetworkConfig, network: Network, table: Table, open_donor: Callable[[], Donor]) -> Ledger:
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
