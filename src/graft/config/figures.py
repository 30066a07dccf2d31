"""The figures that each task is judged by: their names in metrics.json, what people call them, which way is better."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

from graft.config.choices import TaskKind
from graft.config.faults import Fault, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure of a part of the images."""

    name: str
    """val/NAME, test/NAME in metrics.json."""
    title: str
    falls: bool = False
    """Whether lower is better."""
    is_share: bool = True
    """Between 0 and 1, so that a difference can be told in points."""
    trained: bool = False
    """Counted over the training images too, as they are trained on."""

    @property
    def direction(self) -> str:
        return "min" if self.falls else "max"


LOSS = Figure(name="loss", title="loss", falls=True, is_share=False, trained=True)

FIGURES: dict[TaskKind, tuple[Figure, ...]] = {
    TaskKind.single_label: (
        Figure(name="accuracy", title="accuracy", trained=True),
        Figure(name="f1", title="macro-F1"),
        Figure(name="auroc", title="AUROC"),
    ),
    TaskKind.multi_label: (
        Figure(name="map", title="mAP"),
        Figure(name="f1", title="macro-F1"),
        Figure(name="f1_micro", title="micro-F1"),
        Figure(name="auroc", title="AUROC"),
        Figure(name="label_accuracy", title="label accuracy", trained=True),
    ),
    TaskKind.regression: (
        Figure(name="mae", title="MAE", falls=True, is_share=False, trained=True),
        Figure(name="rmse", title="RMSE", falls=True, is_share=False),
        Figure(name="r2", title="R²", is_share=False),
    ),
}
"""Beside the loss; the first of each is the headline."""


def headline(task: TaskKind) -> Figure:
    return FIGURES[task][0]


def trained_figure(task: TaskKind) -> Figure:
    """What is counted over the training images beside the loss."""
    return next(figure for figure in FIGURES[task] if figure.trained)


def ranking(values: Sequence[float | None], direction: str) -> list[int]:
    """Places from the best value to the worst, equals in their order; what is no finite number has no place.

    Whatever chooses by a figure chooses by this: a comparison with NaN is false, so that min and max take it for best
    where it comes first.

    Args:
        direction: min or max.
    """
    sign = 1 if direction == "min" else -1
    pairs = [(place, value) for place, value in enumerate(values) if value is not None and isfinite(value)]
    return [place for place, _ in sorted(pairs, key=lambda pair: sign * pair[1])]


def own_figure(name: str) -> Figure:
    """A metric of the user's own, of which no more than its name is certain."""
    return Figure(name=name, title=name, is_share=False)


def figures_of(task: TaskKind, own: Iterable[str]) -> tuple[Figure, ...]:
    """The task's figures, and those of the user's own."""
    return (*FIGURES[task], *map(own_figure, own))


def monitored(task: TaskKind) -> dict[str, Figure]:
    """What a checkpoint can be chosen by, under its full name."""
    figures = (LOSS, *FIGURES[task])
    on_train = {f"train/{figure.name}": figure for figure in figures if figure.trained}
    return {f"val/{figure.name}": figure for figure in figures} | on_train


def monitor_fault(task: TaskKind, monitor: str, direction: str, own: Iterable[str] = ()) -> Fault | None:
    """What is wrong with choosing a checkpoint by this figure, if anything is.

    Args:
        own: names of metrics of the user's own, which may be better either way.
    """
    if monitor in {f"val/{name}" for name in own}:
        return None
    figures = monitored(task) | {f"val/{name}": own_figure(name) for name in own}
    if monitor not in figures:
        near = nearest(monitor, figures, 1) or ["val/loss"]
        reason = " (a choice made on test would flatter the test)" if monitor.startswith("test/") else ""
        return Fault(
            key="checkpoint.monitor",
            expected=f"one of {', '.join(figures)} with data.task={task.value}",
            received=f"{monitor!r}{reason}",
            remedy=f"checkpoint.monitor={near[0]}",
        )
    if direction != figures[monitor].direction:
        return Fault(
            key="checkpoint.direction",
            expected=f"{figures[monitor].direction} with checkpoint.monitor={monitor}",
            received=repr(direction),
            remedy=f"checkpoint.direction={figures[monitor].direction}",
        )
    return None
