"""Plots of a study: the results of the trials, and how they depend on the choices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from graft.page.figures import INK, LINE, MUTED, SERIES, blank_axes, points, render
from graft.page.words import plot_text
from graft.sweep.record import COMPLETE, FAILED, PRUNED, StudyRecord, TrialRecord

COLOURS = {COMPLETE: SERIES[0], PRUNED: SERIES[1], FAILED: SERIES[4], "running": MUTED}
WIDE_LOG = 100.0
"""An axis whose ends are so many times apart is logarithmic."""


def history(study: StudyRecord, label: str) -> str:
    """The first objective by trial number, and the best value so far."""
    objective, trials = study.objectives[0], study.complete
    figure, axes = blank_axes("trial", objective.metric)
    numbers, values = [trial.number for trial in trials], np.array([trial.values[0] for trial in trials])
    best = np.minimum.accumulate(values) if objective.direction == "min" else np.maximum.accumulate(values)
    axes.scatter(numbers, values, color=SERIES[0], s=18)
    axes.step(numbers, best, where="post", color=SERIES[2], linewidth=1.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    return render(figure, label)


def slice_of(study: StudyRecord, key: str, label: str) -> str:
    """The first objective by the values of one key. The best trial is a filled mark."""
    trials = [trial for trial in study.complete if key in trial.choices]
    texts = [trial.choices[key] for trial in trials]
    xs, ys = numbers_of(texts) or texts, [trial.values[0] for trial in trials]
    best = next((place for place, trial in enumerate(trials) if trial.number == study.best[0].number), None)
    return points(xs, ys, label, x=key, y=study.objectives[0].metric, best=best)


def parallel(study: StudyRecord, keys: Sequence[str], label: str) -> str:
    """Parallel coordinates: one line per trial through its choices, with the best tenth in colour."""
    trials = [trial for trial in study.complete if all(key in trial.choices for key in keys)]
    figure, axes = blank_axes("", "")
    columns = [_unit(_places([trial.choices[key] for trial in trials])[0]) for key in keys]
    columns.append(_unit([trial.values[0] for trial in trials]))
    ranked = sorted(range(len(trials)), key=lambda place: study.losses(trials[place])[0])
    best = set(ranked[: max(1, len(ranked) // 10)])
    for place in reversed(ranked):
        heights = [column[place] for column in columns]
        colour, width = (SERIES[0], 2.0) if place in best else (LINE, 1.0)
        axes.plot(range(len(columns)), heights, color=colour, linewidth=width)
    axes.set_xticks(range(len(columns)), [*map(plot_text, keys), study.objectives[0].metric], rotation=20, ha="right")
    axes.set_yticks([0, 1], ["lowest", "highest"])
    return render(figure, label)


def pareto(study: StudyRecord, label: str) -> str:
    """The first two objectives against each other, with the Pareto front in colour."""
    figure, axes = blank_axes(study.objectives[0].metric, study.objectives[1].metric)
    best = {trial.number for trial in study.best}
    for chosen, colour in ((False, MUTED), (True, SERIES[0])):
        points = [trial.values for trial in study.complete if (trial.number in best) is chosen]
        axes.scatter([point[0] for point in points], [point[1] for point in points], color=colour, s=22)
    return render(figure, label)


def timeline(study: StudyRecord, label: str) -> str:
    """One bar per trial, from its start to its end, coloured by state."""
    trials = [trial for trial in study.trials if trial.began is not None]
    first = min(trial.began or 0.0 for trial in trials)
    last = max(trial.ended or trial.began or 0.0 for trial in trials)
    figure, axes = blank_axes("minutes", "trial", height=0.8 + 0.13 * min(max(len(trials), 6), 40))
    for trial in trials:
        _bar(axes, trial, first, last)
    axes.invert_yaxis()
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    return render(figure, label)


def _bar(axes: Axes, trial: TrialRecord, first: float, last: float) -> None:
    began, ended = trial.began or first, trial.ended or last
    colour = COLOURS[trial.state]
    axes.barh(
        trial.number,
        (ended - began) / 60,
        left=(began - first) / 60,
        height=0.7,
        color=colour,
        edgecolor=INK,
        linewidth=0.2,
    )


def numbers_of(texts: Sequence[str]) -> list[float] | None:
    try:
        return [float(text) for text in texts]
    except ValueError:
        return None


def _places(texts: Sequence[str]) -> tuple[list[float], list[str]]:
    """The position of each value on an axis, and labels for the positions if the values are not numbers."""
    numbers = numbers_of(texts)
    if numbers is not None:
        return numbers, []
    names = sorted(set(texts))
    return [float(names.index(text)) for text in texts], names


def _is_wide(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) >= WIDE_LOG * min(values)


def _unit(values: Sequence[float]) -> list[float]:
    """Values scaled to the range from 0 to 1."""
    scaled = np.log(values) if _is_wide(values) else np.asarray(values, dtype=float)
    span = float(scaled.max() - scaled.min())
    return [float(value) for value in (scaled - scaled.min()) / span] if span else [0.5] * len(values)
