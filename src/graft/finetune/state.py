"""The training state in a checkpoint besides the weights, and the check that a training may resume from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import lightning as L

from graft.config.choices import LossKind
from graft.config.faults import InputError
from graft.config.schema import LossConfig
from graft.finetune.checkpoint import check_weights, state_by_name, state_by_position
from graft.finetune.shrink import resize_progress, resized
from graft.finetune.training_plan import Timeline, TrainingPlan

if TYPE_CHECKING:
    from graft.finetune.head_loop import HeadLoop
    from graft.finetune.module import FineTuning

STATE = "graft"
"""Key of the training state in a checkpoint."""


def add_state(checkpoint: dict[str, Any], tuning: FineTuning) -> None:
    """Mutates the checkpoint that Lightning is about to save: optimizers by parameter name, and the training's own
    state."""
    groups = tuning.plan.groups
    checkpoint["optimizer_states"] = [state_by_name(state, groups) for state in checkpoint["optimizer_states"]]
    checkpoint[STATE] = {
        "settings": settings(tuning),
        "history": [dict(row) for row in tuning.history],
        "sums": tuning.sums.values.cpu(),
        "decisions": list(tuning.plan.decisions),
        "watch": tuning.watch.state(),
        "clock": tuning.clock.state(),
        "finite": tuning.finite.state(),
        "prefix": {cut: dict(ways) for cut, ways in tuning.route.ways.items()},
        "position": list(_position(tuning)),
        "batches": [tuning.plan.timeline.batches_per_epoch, tuning.trainer.accumulate_grad_batches],
        **tuning.methods.state(),
    }


def take_up(checkpoint: dict[str, Any], tuning: FineTuning) -> None:
    """Restores the training to the state in the checkpoint. Mutates the checkpoint, from which Lightning restores the
    rest.

    Raises:
        InputError: the checkpoint does not belong to this run.
    """
    state = cast("Mapping[str, Any] | None", checkpoint.get(STATE))
    if state is None:
        raise InputError("resume: expected a checkpoint of graft's, received one without its state; try resume=never")
    check_weights(checkpoint["state_dict"], tuning.state_dict())
    check_settings(state["settings"], settings(tuning))
    checkpoint["optimizer_states"] = [
        state_by_position(saved, tuning.plan.groups, tuning.network) for saved in checkpoint["optimizer_states"]
    ]
    if isinstance(cast("L.Trainer | HeadLoop", tuning.trainer), L.Trainer):
        if "loops" not in checkpoint:
            raise InputError(
                "resume: expected a checkpoint of a training with the same trainer settings, received one of a head on"
                " kept features in one process; try the trainer and cache settings that wrote it, or resume=never"
            )
        resize_progress(checkpoint, **_sizes(state, tuning.plan.timeline))
    tuning.history = [dict(row) for row in state["history"]]
    tuning.sums.values = state["sums"]
    tuning.decide(state["decisions"])
    tuning.watch.restore(state["watch"])
    tuning.finite.restore(state["finite"])
    tuning.clock.restore(state["clock"])
    tuning.route.ways = {cut: dict(ways) for cut, ways in state["prefix"].items()}
    tuning.methods.restore(state)


def resized_position(state: Mapping[str, Any], timeline: Timeline) -> tuple[int, int]:
    """The saved epoch and the number of batches done in it, converted if the batch size has changed."""
    epoch, batches = state["position"]
    return epoch, resized(batches, **_sizes(state, timeline)) if batches else 0


def _sizes(state: Mapping[str, Any], timeline: Timeline) -> dict[str, tuple[int, int]]:
    batches, accumulate = state["batches"]
    return {"batches": (batches, timeline.batches_per_epoch), "accumulate": (accumulate, timeline.accumulate)}


def _position(tuning: FineTuning) -> tuple[int, int]:
    """The epoch, and the number of batches done in it, from which training continues."""
    trainer = cast("L.Trainer | HeadLoop", tuning.trainer)
    if not isinstance(trainer, L.Trainer):
        return trainer.position
    loop = trainer.fit_loop
    epoch = loop.epoch_progress.state_dict()["current"]
    if epoch["processed"] == epoch["ready"]:
        return epoch["processed"], 0
    return epoch["processed"], loop.epoch_loop.batch_progress.current.ready


def settings(tuning: FineTuning) -> dict[str, Any]:
    """Settings as plain values, each with a name that users recognise."""
    plan, loss = tuning.plan, tuning.loss_config
    optimizer, schedule = plan.optimizer, plan.schedule
    some_steps = range(0, plan.total_steps, max(plan.total_steps // 16, 1))
    return {
        "seed": plan.seed,
        "steps per epoch": plan.steps_per_epoch,
        "steps": plan.total_steps,
        "phases": _phases(plan),
        "freeze_bn": plan.freeze_bn.value,
        "groups": [[group.name, group.lr, group.weight_decay] for group in plan.groups],
        "optimizer.no_decay": list(optimizer.no_decay),
        "learning-rate factors": [round(plan.rates.curve(step), 9) for step in some_steps],
        "unfreeze.phase_factors and unfreeze.warmup": [*schedule.factors, str(schedule.warmup)],
        "optimizer": f"{optimizer.label} {sorted(optimizer.kwargs.items())}",
        "task": [list(tuning.task.names), tuning.task.record()],
        "loss": [loss.label_smoothing, loss.class_weights.value, loss.regression.value],
        **_own_loss(loss),
        **tuning.methods.settings(),
        **tuning.shared,
    }


def _own_loss(loss: LossConfig) -> dict[str, Any]:
    """Nothing for the task's own loss, whose checkpoints may be older than the choice."""
    if loss.kind is LossKind.task and not loss.weights:
        return {}
    chosen = [loss.kind.value, loss.gamma, loss.tau, loss.target, str(loss.kwargs), sorted(loss.weights.items())]
    return {"loss.kind and its settings": chosen}


def _phases(plan: TrainingPlan) -> list[list[Any]]:
    """The schedule before any decision, and the states that depend on decisions."""
    schedule = plan.schedule
    planned = plan.derived(decisions=()).phases
    phases: list[list[Any]] = [[phase.start_step, str(phase.frozen)] for phase in planned]
    if schedule.plateau is not None:
        phases += [[str(schedule.plateau), str(frozen)] for frozen in schedule.plateau.releases]
    return phases


def check_settings(saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Raises InputError with every difference, unless both are equal."""
    differing = [
        f"{key}: {saved.get(key)} in the checkpoint, {present[key]} now"
        for key in present
        if saved.get(key) != present[key]
    ]
    if differing:
        raise InputError(
            "resume: expected the run that wrote the checkpoint, received another:\n  "
            + "\n  ".join(differing)
            + "\ntry the configuration that wrote it, resume=never, or another hydra.run.dir"
        )
