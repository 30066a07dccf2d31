"""Decides whether a run's head is solved on cached features, and which keys then have no effect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from graft.config.choices import FIND, ClassWeights, HeadKind, HeadSolver, Resize
from graft.config.faults import InputError
from graft.config.schema import Config, HeadConfig, NetworkConfig
from graft.data.table import Table
from graft.finetune.methods import methods_in_words
from graft.finetune.training_plan import TrainingPlan
from graft.heads.choice import FEW, FOLDS
from graft.heads.layers import EARLY_STOPPING
from graft.heads.solve import PENALTIES
from graft.models.heads import DropoutLinear
from graft.models.network import Network, network_for
from graft.plan.features import CachePlan, keep_all_blocks, plan_cache

SOLVABLE = (HeadKind.linear, HeadKind.stages, HeadKind.auto, HeadKind.mlp)
STEPS = (
    "optimizer", "scheduler", "checkpoint.every_n_steps",
    *(f"trainer.{name}" for name in ("max_epochs", "patience", "accumulate", "clip_norm", "on_nan", "profiler")),
    *("trainer.tune", "trainer.compile"),
)  # fmt: skip
"""Keys and groups of keys that only training by gradient steps uses."""
OF_ONE_TRAINING = ("optimizer.weight_decay", *STEPS[1:])
"""Keys that ask for a single training of hidden layers, for all epochs."""
MOST_FEATURES = 2e8
"""The number of cached training features up to which hidden layers are trained in memory: 800 MB."""


WHOLE = 1.0
"""The crop fraction that keeps the whole of a square image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverPlan:
    """How the head is trained."""

    solves: bool
    reason: str
    """Why it is not solved although head.solver=auto would do so; or how the penalty is chosen."""
    without_effect: tuple[str, ...] = ()
    """Command-line arguments that a solved head ignores."""
    decays: tuple[float, ...] = ()
    """For head=mlp, the weight decays to try, the strongest first."""
    crops: tuple[float, ...] = ()
    """For head=auto, the crop fractions to compare, the donor's first; empty if there is only one."""

    def to_dict(self) -> dict[str, Any]:
        kind = EARLY_STOPPING if self.decays else (HeadSolver.convex if self.solves else HeadSolver.sgd).value
        return {"kind": kind, **asdict(self)}


def plan_solver(
    config: NetworkConfig,
    table: Table,
    obstacles: Iterator[str],
    crop_fraction: float,
    overrides: Sequence[str],
    decay: float,
) -> SolverPlan:
    """Solved if nothing but a linear head trains, on cached features; hidden layers are stopped early there.

    Args:
        obstacles: reasons why the head must be trained by gradient steps.
        crop_fraction: the donor's crop fraction.
        decay: optimizer.weight_decay.

    Raises:
        InputError: head.solver=convex or head.refit is set, but the head cannot be solved.
    """
    if config.head.kind not in SOLVABLE:
        obstacle = f"head={config.head.kind.value}"
    elif config.head.solver is HeadSolver.sgd:
        obstacle = "head.solver=sgd"
    else:
        obstacle = next(obstacles, "")
    if obstacle and config.head.kind is HeadKind.auto:
        raise InputError(
            f"head=auto: expected a head that is solved on kept features, received {obstacle}; try head=linear, which"
            " can be trained by steps too"
        )
    if config.head.kind is HeadKind.mlp and config.head.solver is HeadSolver.convex:
        obstacle = "head=mlp"
    if obstacle and config.head.solver is HeadSolver.convex:
        raise InputError(
            f"head.solver: expected a linear head on kept features with convex, received {obstacle}; try head.solver="
            "auto, which trains by steps then"
        )
    if obstacle and config.head.refit:
        raise InputError(
            f"head.refit: expected a head that is solved, received {obstacle}; try head.refit=false, or take that back"
        )
    if obstacle:
        return SolverPlan(solves=False, reason=obstacle)
    layers = config.head.kind is HeadKind.mlp
    decays = tuple(sorted(config.head.decays or [decay], reverse=True)) if layers else ()
    few = len(table.val) < FEW
    by = f"{FOLDS} folds of the training images, as {len(table.val)} validation images are few" if few else (
        f"{len(table.val):,} validation images"
    )  # fmt: skip
    if decays:
        ended = f"each until {config.head.patience} epochs bring no lower loss"
        reason = f"one of {len(decays)} weight decays, {ended}, chosen by {by}"
        return SolverPlan(solves=True, reason=reason, decays=decays)
    refit = "; solved again on training and validation images" if config.head.refit else ""
    reason = f"one of {len(PENALTIES)} penalties, chosen by {by}{refit}"
    cropped = config.resize is Resize.crop and config.crop_fraction is None
    compared = config.head.kind is HeadKind.auto and cropped
    crops = (crop_fraction, WHOLE) if compared and crop_fraction < WHOLE else ()
    return SolverPlan(solves=True, reason=reason, without_effect=tuple(_without_effect(overrides)), crops=crops)


def _obstacles(
    config: Config, table: Table, network: Network, training: TrainingPlan, cache: CachePlan, overrides: Sequence[str]
) -> Iterator[str]:
    """Reasons why the head must be trained by gradient steps."""
    if config.callbacks:
        yield "callbacks, which are called at steps"
    trunk, last = network.stages.names, network.module.get_submodule(network.stages.head)
    if len(network.stages.heads) > 1:
        yield f"{len(network.stages.heads)} last layers"
    layers = config.head.kind is HeadKind.mlp
    if not layers and type(last) not in (torch.nn.Linear, DropoutLinear):
        yield f"a {type(last).__name__} for the last layer"
    if config.backbone.drop_rate or (config.head.dropout and not layers):
        yield "dropout before the last layer"
    first = training.phases[0]
    if len(training.phases) > 1 or training.undecided or set(first.frozen.stages) != set(trunk):
        yield "a trunk that trains"
    if not cache.outputs:
        yield f"no kept features ({cache.reason})"
    elif cache.cut != trunk[-1] or cache.outputs[0].epochs not in (None, (0, config.trainer.epochs)):
        yield f"features kept after {cache.cut}, not before the last layer"
    if config.trainer.devices * config.trainer.num_nodes > 1:
        yield "several processes"
    if config.donor.class_map:
        yield "donor.class_map, whose rows the head begins with"
    loss = replace(config.loss, label_smoothing=0.0, class_weights=ClassWeights.none)  # which a solver has too
    if methods := methods_in_words(replace(config, loss=loss, data=replace(config.data, balanced=False))):
        yield f"a method that takes steps ({methods[0]})"
    if layers:
        yield from _obstacles_to_early_stopping(config, table, network, overrides)


def _obstacles_to_early_stopping(
    config: Config, table: Table, network: Network, overrides: Sequence[str]
) -> Iterator[str]:
    """Why hidden layers are trained for all epochs, with one weight decay."""
    if network.head["map"] or config.backbone.classifier:
        yield "hidden layers in place of more than the last one"
    if word := next(_among(OF_ONE_TRAINING, overrides), ""):
        yield f"{word}, which is of a training for all epochs"
    if config.optimizer.lr == FIND:
        yield f"optimizer.lr={FIND}"
    if len(table.train) * max(config.cache.views, 1) * network.head["width"] > MOST_FEATURES:
        yield "more features than memory should hold"


def _without_effect(overrides: Sequence[str]) -> Iterator[str]:
    """The command-line arguments without effect."""
    return _among(STEPS, overrides)


def _among(keys: Sequence[str], words: Sequence[str]) -> Iterator[str]:
    """The arguments that set one of these keys, or one of their groups."""
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if any(key == read or key.startswith(f"{read}.") for read in keys):
            yield word


def network_of_all_blocks(config: NetworkConfig, network: Network) -> Network | None:
    """The network with head=stages, on the meta device, whose features include the input of the last layer. A run with
    head=linear also measures such heads. None if there is no such network."""
    if network.head["kind"] == HeadKind.stages.value:
        return network
    settings = replace(config, head=HeadConfig(kind=HeadKind.stages))
    try:
        return replace(network_for(settings, network.classes, device="meta"), preprocess=network.preprocess)
    except InputError:
        return None


def plan_features(
    config: Config, table: Table, network: Network, training: TrainingPlan, overrides: Sequence[str]
) -> tuple[CachePlan, SolverPlan, Network | None]:
    """What is cached, how the head is trained, and the network of all blocks if that is measured too."""
    cache = plan_cache(
        config.features, table, network, training.phases, training.undecided, steps_per_epoch=training.steps_per_epoch
    )
    obstacles = _obstacles(config, table, network, training, cache, overrides)
    crop, decay = network.preprocess.crop_fraction, config.optimizer.weight_decay
    solver = plan_solver(config.network, table, obstacles, crop, overrides, decay)
    blocks = network_of_all_blocks(config.network, network) if solver.solves else None
    if blocks is not None and blocks is not network:
        wider = keep_all_blocks(cache, config.features, table, blocks)
        cache, blocks = (cache, None) if wider is None else (wider, blocks)
    return cache, solver, blocks
