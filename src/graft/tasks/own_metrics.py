"""Metrics of torchmetrics or of a user's own, by import path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.config.import_path import OwnCode, call_object, check_arguments, check_callable, import_object, takes

TARGET = "_target_"
FEWEST = 8  # images of the example that each metric is tried on
MULTI = {TaskKind.single_label: "multiclass", TaskKind.multi_label: "multilabel"}


class OfAll(Metric):
    """A function of the answers and labels of all images of a part together."""

    full_state_update = False

    def __init__(self, function: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.answers: list[Tensor]
        self.labels: list[Tensor]
        for name in ("answers", "labels"):
            self.add_state(name, [], dist_reduce_fx="cat")

    @override
    def update(self, answers_BK: Tensor, label: Tensor) -> None:
        self.answers.append(answers_BK)
        self.labels.append(label)

    @override
    def compute(self) -> Tensor:
        answers_NK, label = (_whole(state) for state in (self.answers, self.labels))
        return torch.as_tensor(float(self.function(answers_NK, label)))


def _whole(state: list[Tensor] | Tensor) -> Tensor:
    return state if isinstance(state, Tensor) else torch.cat(state)


def own_metrics(entries: Mapping[str, Any], kind: TaskKind, outputs: int) -> dict[str, Callable[[], Metric]]:
    """What makes each metric of the config, after each has been tried on an example.

    Args:
        outputs: K, the number of classes, labels or numbers.

    Raises:
        InputError: one cannot be imported, made or computed, or is no number.
    """
    makers = {name: _maker(name, entry, kind, outputs) for name, entry in entries.items()}
    for name, make in makers.items():
        answers_NK, label = _example(kind, outputs)
        with OwnCode(f"metrics.{name}: expected a number for {len(answers_NK)} images of {outputs} outputs"):
            metric = make()
            metric.update(answers_NK, label)
            float(metric.compute())  # pyright: ignore[reportCallIssue]
    return makers


def path_of_entry(entry: Any) -> Any:
    """The import path of an entry: the text itself, or its _target_."""
    return cast(Mapping[str, Any], entry).get(TARGET) if isinstance(entry, Mapping) else entry


def _maker(name: str, entry: Any, kind: TaskKind, outputs: int) -> Callable[[], Metric]:
    key, path = f"metrics.{name}", str(path_of_entry(entry))
    arguments = {k: v for k, v in entry.items() if k != TARGET} if isinstance(entry, Mapping) else {}
    target = import_object(key, path)
    check_callable(key, path, target)
    if not isinstance(target, type):
        check_arguments(key, path, target, _example(kind, outputs), arguments)
        return partial(OfAll, partial(target, **arguments))
    sizes = {"num_classes": outputs, "num_labels": outputs, "num_outputs": outputs, "task": MULTI.get(kind)}
    filled = {k: v for k, v in sizes.items() if v is not None and k not in arguments and takes(target, k)}

    def make() -> Metric:
        metric = call_object(key, path, **filled, **arguments)
        if not isinstance(metric, Metric):
            raise InputError(
                f"{key}: expected {path} to be a torchmetrics.Metric, or a function of answers and labels, received a "
                f"{type(metric).__name__}"
            )
        return metric

    return make


def _example(kind: TaskKind, outputs: int) -> tuple[Tensor, Tensor]:
    """Answers and labels of a few images, with every class."""
    count = max(FEWEST, outputs)
    numbers_NK = torch.linspace(0.1, 0.9, count * outputs).reshape(count, outputs)
    if kind is TaskKind.regression:
        return numbers_NK, numbers_NK.flip(0)
    if kind is TaskKind.multi_label:
        return numbers_NK, torch.eye(outputs).repeat(-(-count // outputs), 1)[:count]
    return numbers_NK.softmax(1), torch.arange(count) % outputs
