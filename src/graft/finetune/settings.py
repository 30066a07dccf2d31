"""What a resumed run must share with the run that wrote its checkpoint, or it would not be the same run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graft.config.faults import InputError

if TYPE_CHECKING:
    from graft.finetune.module import FineTuning


def settings(tuning: FineTuning) -> dict[str, Any]:
    """Plain values, each named as a person would look for it."""
    some_steps = range(0, tuning.total_steps, max(tuning.total_steps // 16, 1))
    optimizer, loss, schedule = tuning.optimizer_config, tuning.loss_config, tuning.schedule
    return {
        "seed": tuning.seed,
        "steps per epoch": tuning.steps_per_epoch,
        "steps": tuning.total_steps,
        "phases": _phases(tuning),
        "freeze_bn": tuning.freeze_bn.value,
        "groups": [[group.name, group.lr, group.weight_decay] for group in tuning.groups],
        "optimizer.no_decay": list(optimizer.no_decay),
        "learning-rate factors": [round(tuning.curve(step), 9) for step in some_steps],
        "unfreeze.phase_factors and unfreeze.warmup": [*schedule.factors, str(schedule.warmup)],
        "optimizer": f"{optimizer.name} {sorted(optimizer.kwargs.items())}",
        "task": [list(tuning.task.names), tuning.task.record()],
        "loss": [loss.label_smoothing, loss.class_weights.value, loss.regression.value],
        **tuning.methods.settings(),
        **tuning.shared,
    }


def _phases(tuning: FineTuning) -> list[list[Any]]:
    """The schedule before any decision, and what is to be decided."""
    schedule = tuning.schedule
    known = schedule.phases(tuning.steps_per_epoch, tuning.total_steps)
    phases: list[list[Any]] = [[phase.start_step, str(phase.frozen)] for phase in known]
    if schedule.plateau is not None:
        phases += [[str(schedule.plateau), str(frozen)] for frozen in schedule.plateau.releases]
    return phases


def check_settings(saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Raises InputError, with every difference, unless both are the same."""
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
