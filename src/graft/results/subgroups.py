"""A part's figures for each value of a column (camera, site, batch), the worst value first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np

from graft.config.choices import TaskKind
from graft.config.figures import headline, ranking
from graft.page.words import measured
from graft.results.intervals import intervals
from graft.results.predictions import Predictions

EMPTY = "(empty)"
SHOWN = 3

Subgroups = dict[str, dict[str, list[dict[str, Any]]]]
"""Part to column to one entry per value: the value, its number of images, its figures and their intervals."""


def subgroups(
    parts: Sequence[Predictions], columns: Mapping[str, Mapping[str, str]], names: Sequence[str]
) -> Subgroups:
    """Every figure of every part, for each value of each column.

    Args:
        columns: image path to column to the image's cell.
        names: the columns to group by.
    """
    return {
        predictions.part: {
            name: _by(predictions, [columns[path][name] for path in predictions.paths]) for name in names
        }
        for predictions in parts
    }


def _by(predictions: Predictions, cells: Sequence[str]) -> list[dict[str, Any]]:
    rows_of: dict[str, list[int]] = {}
    for row, cell in enumerate(cells):
        rows_of.setdefault(cell or EMPTY, []).append(row)
    entries = [_entry(predictions, value, rows_of[value]) for value in sorted(rows_of)]
    figure = headline(predictions.task)
    worst_first = ranking([entry[figure.name] for entry in entries], "max" if figure.falls else "min")
    rest = [place for place in range(len(entries)) if place not in worst_first]
    return [entries[place] for place in [*worst_first, *rest]]


def _entry(predictions: Predictions, value: str, rows: Sequence[int]) -> dict[str, Any]:
    entry: dict[str, Any] = {"value": value, "images": len(rows)}
    answers_NK, truth = predictions.answers_NK[np.array(rows)], predictions.truth[np.array(rows)]
    for name, interval in intervals(answers_NK, truth, predictions.task).items():
        entry[name] = interval.value if isfinite(interval.value) else None
        entry[f"{name}_interval"] = [interval.low, interval.high] if isfinite(interval.low) else None
    return entry


def in_words(record: Subgroups, part: str, task: TaskKind) -> list[str]:
    """One line per column for the terminal, with its worst values."""
    figure = headline(task)
    lines: list[str] = []
    for column, entries in record.get(part, {}).items():
        shown = ", ".join(_words(entry, figure.name) for entry in entries[:SHOWN])
        more = f" and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
        lines.append(f"by {column}, worst first: {figure.title} {shown}{more}")
    return lines


def _words(entry: Mapping[str, Any], figure: str) -> str:
    interval = entry.get(f"{figure}_interval")
    span = f", {measured(interval[0], 3)} to {measured(interval[1], 3)}" if interval else ""
    return f"{measured(entry[figure], 4)} of {entry['value']} ({entry['images']:,} images{span})"
