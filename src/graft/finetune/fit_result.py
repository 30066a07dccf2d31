"""The result of a finished training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.finetune.metrics import Outputs
from graft.finetune.module import FineTuning
from graft.finetune.route import EVALUATION, WHOLE
from graft.finetune.unfreeze import Phase

BEFORE = 0
"""The epoch before the first: the solved head that training began with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """The result of a finished training. The FineTuning's network has the best epoch's weights."""

    metrics: dict[str, float]
    """val/ and test/ figures of the best epoch's weights."""
    trained: dict[str, float]
    """train/ figures of the best epoch, as they were counted while it trained."""
    confusion: dict[str, list[list[int]]]
    """Part to counts: a row per true class, a column per predicted class; empty where an image has not one class."""
    outputs: dict[str, Outputs]
    """Part to what the network said of each image."""
    history: list[dict[str, Any]]
    """A row per epoch, as in metrics.csv."""
    seconds: float
    """Training and the evaluation after each epoch, interruptions left out."""
    first_step: float | None
    """When it began, by `time.perf_counter`; None where a finished run was only evaluated."""
    images_per_second: float
    """Of training alone."""
    epochs: int
    steps: int
    batch_size: int
    accumulate: int
    """Batches a step: more than configured where the device's memory was too small."""
    steps_skipped: int
    """Of them: left out because loss or gradients were not finite."""
    best_epoch: int | None
    """Counted from 1, as in the history; 0 for the solved head that training began with; None where nothing was
    trained by steps."""
    best_path: Path | None
    last_path: Path | None
    resumed_from: Path | None
    frozen_verified: bool | None
    """Whether every frozen tensor kept every bit while it was frozen; None where nothing was frozen."""
    moved: tuple[str, ...]
    """Frozen tensors that did not."""
    moved_statistics: tuple[str, ...]
    """Batch-norm statistics that freeze_bn=none let move in stages that no phase trains."""
    phases: tuple[Phase, ...]
    """As they came about."""
    profile: dict[str, float]
    """Shares of the training epochs' wall clock: data, forward, backward, … ; empty where torch's profiler ran."""
    precision: dict[str, str]
    """Of training and of evaluation, as Lightning names them."""
    prefix: dict[str, dict[str, str]]
    """How frozen prefixes were computed on images, for training and for evaluation, by the stage that ends them."""
    head: dict[str, Any] | None = None
    """How a solved head was found: its penalty, and the path of penalties with their losses. Where training began with
    one: its figures, and whether its weights came back."""

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
