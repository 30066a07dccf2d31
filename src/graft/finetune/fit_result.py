"""The result of a finished training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.finetune.metrics import Outputs
from graft.finetune.module import FineTuning
from graft.finetune.route import EVALUATION, WHOLE
from graft.finetune.unfreeze import Phase
from graft.results.calibration import Calibration
from graft.results.subgroups import Subgroups

BEFORE = 0
"""The epoch before the first one: the initial solved head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """The result of a finished training. The FineTuning's network has the best epoch's weights."""

    metrics: dict[str, float]
    """val/ and test/ metrics of the best epoch's weights."""
    trained: dict[str, float]
    """train/ metrics of the best epoch, accumulated while it was trained."""
    confusion: dict[str, list[list[int]]]
    """Confusion matrix by part, one row per true class and one column per predicted class; empty unless
    single_label."""
    outputs: dict[str, Outputs]
    """Predictions for each image, by part."""
    history: list[dict[str, Any]]
    """One row per epoch, as in metrics.csv."""
    seconds: float
    """Duration of training and of the evaluation after each epoch, without interruptions, in seconds."""
    first_step: float | None
    """Start of the first step by `time.perf_counter`; None if a finished run was only evaluated."""
    images_per_second: float
    """Throughput of training, without evaluation."""
    epochs: int
    steps: int
    batch_size: int
    accumulate: int
    """Batches per step: more than configured if the device ran out of memory."""
    steps_skipped: int
    """Steps that were skipped because loss or gradients were not finite."""
    best_epoch: int | None
    """Counted from 1, as in the history. 0 is the initial solved head. None if nothing was trained by steps."""
    best_path: Path | None
    last_path: Path | None
    resumed_from: Path | None
    frozen_verified: bool | None
    """Whether every frozen tensor kept every bit while it was frozen; None if nothing was frozen."""
    moved: tuple[str, ...]
    """Frozen tensors that changed."""
    moved_statistics: tuple[str, ...]
    """Batch-norm statistics that changed, as freeze_bn=none allows, in stages that no phase trains."""
    phases: tuple[Phase, ...]
    """The phases as they occurred."""
    profile: dict[str, float]
    """Fractions of the training epochs' wall-clock time: data, forward, backward, …; empty with torch's profiler."""
    precision: dict[str, str]
    """Precision of training and of evaluation, in Lightning's names."""
    prefix: dict[str, dict[str, str]]
    """How frozen prefixes were computed on images, for training and for evaluation, by the stage that ends them."""
    head: dict[str, Any] | None = None
    """For a solved head: its penalty, and the path of penalties with their losses. For an initial solved head: its
    metrics, and whether it was restored."""

    calibration: Calibration | None = None
    """Of the answers, once they are calibrated; None for numbers."""
    folds: dict[str, Any] | None = None
    """Of a cross-validation: each fold's figures, their mean and spread. The val figures and outputs are then those of
    every image outside the test part, by heads that were solved without its fold."""
    threshold: dict[str, Any] | None = None
    """That of results.sensitivity or results.cost, with what it comes to on each part."""
    by: Subgroups | None = None
    """Figures by the columns of results.by."""

    @property
    def figures(self) -> dict[str, float]:
        """All metrics of the best epoch."""
        return {**self.trained, **self.metrics}


def outcome_of(tuning: FineTuning) -> dict[str, Any]:
    """Fields of a FitResult that describe the course of the training."""
    seconds = tuning.clock.seconds
    return {
        "frozen_verified": tuning.watch.verified(),
        "moved": tuple(sorted(tuning.watch.moved)),
        "moved_statistics": tuple(sorted(tuning.watch.moved_statistics())),
        "history": tuning.history,
        "seconds": sum(seconds.values()),
        "first_step": tuning.clock.first_step,
        "images_per_second": tuning.clock.images / seconds["training"] if seconds["training"] else 0.0,
        "epochs": len(tuning.history),
        "steps": tuning.history[-1]["step"],
        "batch_size": tuning.plan.timeline.batch_size,
        "accumulate": tuning.plan.timeline.accumulate,
        "steps_skipped": tuning.finite.skipped,
        "phases": tuning.plan.phases,
    }


def ways_of(tuning: FineTuning) -> dict[str, dict[str, str]]:
    """How frozen prefixes ran on images. An average of the weights is evaluated without an engine."""
    mean = {} if tuning.methods.average is None else {EVALUATION: WHOLE}
    return {cut: {**ways, **mean} for cut, ways in tuning.route.ways.items()}
