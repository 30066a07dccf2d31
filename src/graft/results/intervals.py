"""The figures of a part, each with its confidence interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from math import isfinite
from typing import Any

from graft.config.choices import TaskKind
from graft.config.figures import FIGURES
from graft.results.left_out import Truth
from graft.results.predictions import Predictions
from graft.results.resampling import Interval, interval
from graft.tasks.evaluate import Floats

WORK = 400_000_000  # limit of images × classes × resamples for one interval
Intervals = dict[str, dict[str, Any]]
"""part/figure to the fields of its interval."""
SORTED = ("auroc", "map")  # figures that sort the answers, which costs the most


def intervals(answers_NK: Floats, truth: Truth, task: TaskKind = TaskKind.single_label) -> dict[str, Interval]:
    """Every figure of a task, with its 95 % interval.

    Large parts get fewer resamples, down to 50. Very large ones get no AUROC and mAP, which would take too long.

    Args:
        answers_NK: probabilities, or numbers.
        truth: classes [N], or labels or numbers [N, K].
    """
    cells = answers_NK.size
    if not cells:
        return {}
    resamples = max(50, min(1000, WORK // cells))
    wanted = [figure.name for figure in FIGURES[task] if figure.name not in SORTED or cells <= WORK // 80]
    return {name: interval(answers_NK, truth, name, task=task, resamples=resamples) for name in wanted}


def interval_record(parts: Iterable[Predictions]) -> Intervals:
    """The intervals of every part in the form of model.json, which `read_intervals` reads.

    A figure that is undefined, or equal in all resamples, has no interval and is left out.
    """
    return {
        f"{predictions.part}/{name}": asdict(interval)
        for predictions in parts
        for name, interval in intervals(predictions.answers_NK, predictions.truth, predictions.task).items()
        if isfinite(interval.low)
    }


def read_intervals(record: Mapping[str, Any], predictions: Predictions) -> dict[str, Interval]:
    """A part's intervals from the run's record, or computed if the record has none in the current form."""
    names = {figure.name: f"{predictions.part}/{figure.name}" for figure in FIGURES[predictions.task]}
    try:
        stored = {name: Interval(**record[full]) for name, full in names.items() if full in record}
    except TypeError:  # an older version wrote other fields
        stored = {}
    if any("method" not in record[full] for full in names.values() if full in record):
        stored = {}  # an older version resampled proportions too
    return stored or intervals(predictions.answers_NK, predictions.truth, predictions.task)
