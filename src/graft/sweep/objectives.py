"""The objectives of a sweep: metrics in the files that a run writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from graft.config.faults import Fault, nearest
from graft.sweep.record import Objective

METRICS_FILE = "metrics.json"
DIRECTIONS = ("min", "max")


def read_objectives(entries: Sequence[str]) -> tuple[list[Objective], list[Fault]]:
    """Parses objectives such as ["val/accuracy max", "parameters min"]. Returns them and the faults."""
    objectives: list[Objective] = []
    faults: list[Fault] = []
    for entry in entries:
        metric, _, direction = str(entry).strip().rpartition(" ")
        if not metric or direction not in DIRECTIONS:
            expected, remedy = "a metric and min or max", f"'hydra.sweeper.objectives=[{entry} max]'"
        elif metric.startswith("test/"):
            expected = "a figure of the validation part: what is chosen on the test part is not tested by it"
            remedy = f"'hydra.sweeper.objectives=[val/{metric.removeprefix('test/')} {direction}]'"
        elif metric in {objective.metric for objective in objectives}:
            expected, remedy = "each metric once", ""
        else:
            objectives.append(Objective(metric=metric.strip(), direction=direction))
            continue
        faults.append(
            Fault(key="hydra.sweeper.objectives", expected=expected, received=repr(str(entry)), remedy=remedy)
        )
    if not entries:
        faults.append(Fault(key="hydra.sweeper.objectives", expected="at least one metric", received="none"))
    return objectives, faults


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """The metrics of the run in this folder; None if it has not ended."""
    try:
        value = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are finite numbers."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    }


def values_of(metrics: Mapping[str, Any], objectives: Sequence[Objective]) -> tuple[list[float], str]:
    """The value of each objective, or the reason why one is missing."""
    numbers = figures(metrics)
    values: list[float] = []
    for objective in objectives:
        if objective.metric in numbers:
            values.append(numbers[objective.metric])
        elif objective.metric in metrics:
            value = metrics[objective.metric]
            if value is None:
                return [], f"{objective.metric} could not be computed (null in {METRICS_FILE}), so it judges no trial"
            return [], f"{objective.metric} is {value!r}, which is no finite number"
        else:
            closest = nearest(objective.metric, numbers) or sorted(numbers)
            return [], (
                f"hydra.sweeper.objectives: expected {objective.metric} in {METRICS_FILE}, received none; try "
                f"{' or '.join(closest) or 'another metric'}"
            )
    return values, ""
