"""What a task cannot be had with: rules of rules.py's kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from graft.config.choices import ClassWeights, DataKind, TaskKind
from graft.config.faults import Fault
from graft.config.figures import monitor_fault

Values = Mapping[str, Any]

TASKS_OF: dict[DataKind, tuple[tuple[TaskKind, ...], str]] = {
    DataKind.solar_cells: (
        (TaskKind.single_label, TaskKind.regression),
        "whose cells have one probability of being defective each",
    ),
    DataKind.folder: ((TaskKind.single_label,), "where an image lies in the folder of its one class"),
    DataKind.csv: (tuple(TaskKind), ""),
    DataKind.custom: (tuple(TaskKind), ""),
}
"""Which tasks a source has labels for, and what it says of an image."""


def _labels_for_the_task(values: Values) -> Iterator[Fault]:
    kind, task = values["data.kind"], values["data.task"]
    tasks, reason = TASKS_OF[kind]
    if task not in tasks:
        yield Fault(
            key="data.task",
            expected=f"{' or '.join(each.value for each in tasks)} with data={kind.value}, {reason}",
            received=task.value,
            remedy=f"data=csv data.root=FILE.csv data.task={task.value}",
        )


def _weighed_alone(values: Values) -> Iterator[Fault]:
    """A step's loss is divided by what its images weigh."""
    counts = ("data.batch_size", "trainer.accumulate", "trainer.devices", "trainer.num_nodes")
    alone = all(values[key] == 1 for key in counts)
    if alone and values["data.task"] is TaskKind.single_label and values["loss.class_weights"] is ClassWeights.balanced:
        yield Fault(
            key="loss.class_weights",
            expected="none with steps of one image, where it has no effect: an image weighs beside others",
            received="balanced",
            remedy="trainer.accumulate=16, a larger data.batch_size, or data.balanced=true",
        )


def _monitored(values: Values) -> Iterator[Fault]:
    fault = monitor_fault(
        values["data.task"], values["checkpoint.monitor"], values["checkpoint.direction"], values["metrics"]
    )  # fmt: skip
    if fault is not None:
        yield fault


TASK_RULES: tuple[tuple[tuple[str, ...], Callable[[Values], Iterator[Fault]]], ...] = (
    (("data.kind", "data.task"), _labels_for_the_task),
    (
        (
            "data.task",
            "loss.class_weights",
            "data.batch_size",
            "trainer.accumulate",
            "trainer.devices",
            "trainer.num_nodes",
        ),
        _weighed_alone,
    ),
    (("data.task", "checkpoint.monitor", "checkpoint.direction", "metrics"), _monitored),
)
