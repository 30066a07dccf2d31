"""The files that a run writes: predictions, drift, the model, the metrics, the report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.config.figures import LOSS, figures_of
from graft.config.program import program
from graft.config.schema import CheckpointConfig
from graft.finetune.callbacks import best_row
from graft.finetune.fit_result import BEFORE, FitResult
from graft.finetune.freeze import unmoving
from graft.finetune.methods.lora import plain_name
from graft.finetune.pruning import Pruned
from graft.heads.layers import EARLY_STOPPING
from graft.inference.latency import latency_ms
from graft.models.network import Network
from graft.page.words import measured
from graft.pipeline.folds import in_words as folds_in_words
from graft.pipeline.judging import predictions_of
from graft.plan.plan import Plan
from graft.report import write_report
from graft.results.calibration import Calibration
from graft.results.drift import drift, write_drift
from graft.results.export import export
from graft.results.intervals import Intervals, interval_record
from graft.results.left_out import LeftOut, in_words, left_out
from graft.results.predictions import write_predictions
from graft.results.subgroups import in_words as subgroups_in_words
from graft.results.threshold import in_words as threshold_in_words
from graft.system.clock import Clock
from graft.system.files import write_json
from graft.system.processes import is_first, say
from graft.transfer.donors.published import licence_of


def write_results(
    plan: Plan,
    network: Network,
    result: FitResult,
    injected: dict[str, torch.Tensor],
    folder: Path,
    overrides: Sequence[str],
) -> Intervals:
    """Writes the predictions, the drift and the model. Returns the confidence intervals of the metrics."""
    config, table = plan.config, plan.table
    predictions = predictions_of(plan, result)
    write_predictions(folder, predictions, classes=table.classes)
    after = dict(network.module.named_parameters())
    write_drift(folder, drift(injected, after, network.stages.stage_of))
    heads = network.stages.heads
    frozen = (unmoving(network.module, phase.frozen, config.freeze_bn, heads=heads) for phase in result.phases)
    intervals = interval_record(predictions)
    never = {plain_name(name) for name in frozenset[str].intersection(*frozen)}
    export(
        network,
        folder / "model",
        classes=table.classes,
        task=plan.task.record(),
        donor={**plan.ledger.donor, "licence": licence_of(config.donor, config.backbone)},
        freeze={
            "expression": config.freeze,
            "unfreeze": config.unfreeze.kind.value,
            "frozen_statistics_moved": len(result.moved_statistics),
            "phases": [phase.to_dict() for phase in result.phases],
            "verified": result.frozen_verified,
            "methods": list(plan.methods),
        },
        ledger=plan.ledger.to_dict(),
        frozen=never - {f"{path}.weight" for path in plan.lora},
        data=plan.data_record(),
        metrics=result.metrics,
        left_out=_left_out(plan, result),
        calibration=None if result.calibration is None else result.calibration.record(),
        threshold=result.threshold,
        intervals=intervals,
        command=shlex.join([*program(), *overrides]),
    )
    return intervals


def write_metrics(
    plan: Plan,
    network: Network,
    result: FitResult,
    intervals: Intervals,
    computed: dict[str, dict[str, str]],
    clock: Clock,
    folder: Path,
) -> dict[str, Any]:
    """Writes metrics.json, after the model is exported, so that its latency can be measured if requested.

    Args:
        computed: how cached features were computed, by the stage whose output they are.
    """
    latency: dict[str, float] = {}
    if plan.config.trainer.latency:
        gpu = plan.config.trainer.accelerator != "cpu" and torch.cuda.is_available()
        with clock("latency"):
            latency["latency_ms"] = latency_ms(folder / "model", device="cuda" if gpu else "cpu")
    metrics: dict[str, Any] = {
        **result.figures,
        "parameters": sum(parameter.numel() for parameter in network.module.parameters()),
        **latency,
        "train/seconds": result.seconds,
        "train/images_per_second": result.images_per_second if result.epochs else None,
        "frozen_verified": result.frozen_verified,
        "frozen_statistics_moved": len(result.moved_statistics),
        "phases": [phase.to_dict() for phase in result.phases],
        "epochs": result.epochs,
        "stopped_early": 0 < result.epochs < plan.config.trainer.epochs,
        "best_epoch": result.best_epoch,
        "lr": plan.config.optimizer.lr,
        "lr_found": plan.rate_found,
        "steps": result.steps,
        "batch_size": result.batch_size,
        "accumulate": result.accumulate,
        "steps_skipped": result.steps_skipped,
        "left_out": _left_out(plan, result),
        "intervals": intervals,
        "calibration": None if result.calibration is None else result.calibration.record(),
        **({"folds": result.folds} if result.folds else {}),
        **({"threshold": result.threshold} if result.threshold else {}),
        **({"by": result.by} if result.by else {}),
        **({"confusion": result.confusion} if result.confusion else {}),
        "head": result.head or {"solver": "sgd"},
        "profile": {name: round(share, 4) for name, share in result.profile.items()},
        "precision": result.precision,
        "features": computed,
        "prefix": result.prefix,
        "seconds": clock.seconds,
        "seconds_to_first_step": None if result.first_step is None else clock.since_command(result.first_step),
    }
    write_json(folder / "metrics.json", metrics)
    return metrics


def _left_out(plan: Plan, result: FitResult) -> LeftOut:
    """The outputs that averaged metrics leave out, for every evaluated part."""
    out: LeftOut = {}
    for part in result.outputs:
        samples = plan.table.evaluated(part, crossed=result.folds is not None)
        truth = np.array([sample.label for sample in samples])
        out.update(left_out(part, truth, plan.table.classes, plan.task.kind))
    return out


def write_pruned(pruned: Pruned, checkpoint: CheckpointConfig, clock: Clock, folder: Path) -> float:
    """Writes the metrics of a pruned trial, which has no model."""
    best = best_row(pruned.history, checkpoint) or pruned.history[-1]
    if is_first():
        figures = {name: value for name, value in best.items() if "/" in name}
        metrics = {**figures, "pruned": True, "epochs": len(pruned.history), "seconds": clock.seconds}
        write_json(folder / "metrics.json", metrics)
    say(f"\n{pruned}\nrun: {folder}")
    return best[checkpoint.monitor]


def write_page(folder: Path) -> None:
    """Writes report.html. A failure is printed and does not end the run."""
    try:
        write_report(folder)
    except (InputError, OSError) as error:
        print(f"report.html was not written: {error}", file=sys.stderr)


def summary(metrics: dict[str, Any], task: TaskKind, folder: Path, own: Iterable[str] = ()) -> str:
    """The final lines that a run prints.

    Args:
        own: names of metrics of the user's own.
    """
    part = "test" if f"test/{LOSS.name}" in metrics else "val"
    figures = ", ".join(
        f"{figure.title} {measured(metrics[f'{part}/{figure.name}'], 4)}"
        for figure in figures_of(task, own)
        if f"{part}/{figure.name}" in metrics
    )
    gaps = "".join(f"\n{line}" for line in in_words(metrics["left_out"], task))
    calibration = metrics.get("calibration")
    trust = f"\n{Calibration(**calibration).in_words(part)}" if calibration else ""
    if metrics.get("folds"):
        trust += f"\n{folds_in_words(metrics, task)}"
    if metrics.get("threshold"):
        trust += f"\n{threshold_in_words(metrics['threshold'], part)}"
    trust += "".join(f"\n{line}" for line in subgroups_in_words(metrics.get("by", {}), part, task))
    frozen = {True: "frozen tensors verified", False: "FROZEN TENSORS MOVED", None: "nothing was frozen"}
    how = (
        _head_in_words(metrics["head"], metrics["train/seconds"])
        if metrics["best_epoch"] is None
        else f"solved head kept, as no training came up to it, {metrics['train/seconds']:.1f} s of training"
        if metrics["best_epoch"] == BEFORE
        else f"best epoch {metrics['best_epoch']} of {metrics['epochs']}, {metrics['train/seconds']:.1f} s of training"
    )
    return (
        f"\n{part}: {figures}{gaps}{trust}\n{how};"
        f" {frozen[metrics['frozen_verified']]}{_statistics(metrics['frozen_statistics_moved'])}\nrun: {folder}"
    )


def _head_in_words(head: dict[str, Any], seconds: float) -> str:
    by = f"chosen by {head['chosen_by']}"
    if head["solver"] == EARLY_STOPPING:
        epoch = next(point["epoch"] for point in head["path"] if point["penalty"] == head["penalty"])
        return f"head trained in {seconds:.1f} s, weight decay {head['penalty']:.2g} and epoch {epoch} {by}"
    return f"head solved in {seconds:.1f} s, penalty {head['penalty']:.2g} {by}"


def _statistics(moved: int) -> str:
    return f", but for {moved} batch-norm statistics that moved, as freeze_bn=none lets them" if moved else ""
