"""The figures of a part, each with the interval that its images leave open."""

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

WORK = 400_000_000  # images × classes × resamples that one interval may cost
Intervals = dict[str, dict[str, Any]]
"""Of each figure, under part/figure, the interval as plain values."""
SORTED = ("auroc", "map")  # which cost the most


def intervals(answers_NK: Floats, truth: Truth, task: TaskKind = TaskKind.single_label) -> dict[str, Interval]:
    """Each figure with its interval; fewer resamples for large parts, and no curve where it would take too long."""
    cells = answers_NK.size
    if not cells:
        return {}
    resamples = max(50, min(1000, WORK // cells))
    wanted = [figure.name for figure in FIGURES[task] if figure.name not in SORTED or cells <= WORK // 80]
    return {name: interval(answers_NK, truth, name, task=task, resamples=resamples) for name in wanted}


def interval_record(parts: Iterable[Predictions]) -> Intervals:
    """Those of every part as model.json keeps them: under part/figure, as `read_intervals` reads them back.

    A figure has none where it is undefined, or the same in every resample.
    """
    return {
        f"{predictions.part}/{name}": asdict(interval)
        for predictions in parts
        for name, interval in intervals(predictions.answers_NK, predictions.truth, predictions.task).items()
        if isfinite(interval.low)
    }


def read_intervals(record: Mapping[str, Any], predictions: Predictions) -> dict[str, Interval]:
    """A part's intervals as its run has written them down, which spares drawing them again; else computed."""
    names = {figure.name: f"{predictions.part}/{figure.name}" for figure in FIGURES[predictions.task]}
    try:
        stored = {name: Interval(**record[full]) for name, full in names.items() if full in record}
    except TypeError:  # of a time when something else was kept
        stored = {}
    if any("method" not in record[full] for full in names.values() if full in record):
        stored = {}  # of a time when proportions were resampled too
    return stored or intervals(predictions.answers_NK, predictions.truth, predictions.task)
