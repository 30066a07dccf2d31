"""The task of a run or of an exported model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.tasks.multi_label import MultiLabel
from graft.tasks.regression import Regression
from graft.tasks.single_label import SingleLabel
from graft.tasks.task import Task

TASKS: dict[TaskKind, type[Task]] = {task.kind: task for task in (SingleLabel, MultiLabel, Regression)}


def task_of(kind: TaskKind, names: Sequence[str], labels: Sequence[Any]) -> Task:
    """The task of a run.

    Args:
        names: names of the network's outputs: classes, labels or numbers.
        labels: labels of the training images.
    """
    return TASKS[kind].learnt(names, labels)


def task_of_record(record: Mapping[str, Any]) -> Task:
    """The task of an exported model, from model.json; single_label if the record has none.

    Raises:
        InputError: a task that this version does not know.
    """
    task = record.get("task") or {"kind": TaskKind.single_label.value}
    try:
        recorded = TASKS[TaskKind(task["kind"])].recorded([str(name) for name in record["classes"]], task)
        return recorded.with_temperature(_temperature(record))
    except (KeyError, TypeError, ValueError) as error:
        kinds = ", ".join(kind.value for kind in TaskKind)
        raise InputError(
            f"model.json: expected a task as graft writes it ({kinds}), received {task} "
            f"({type(error).__name__}: {error}); try exporting the model again"
        ) from error


def _temperature(record: Mapping[str, Any]) -> float:
    """The temperature of a calibrated model; 1 if it has none."""
    calibration = record.get("calibration") or {"temperature": 1.0}
    temperature = float(calibration["temperature"])
    if not 0 < temperature < inf:
        raise ValueError(f"a temperature of {temperature:g}, which no logits can be divided by")
    return temperature
