"""A task's figures with confidence intervals: by formula for proportions, otherwise by bootstrap over the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from graft.config.choices import TaskKind
from graft.config.figures import FIGURES
from graft.results.left_out import Truth
from graft.results.proportions import SHARES, mean_share, paired_difference_of_shares
from graft.tasks import evaluate, evaluate_labels, evaluate_numbers
from graft.tasks.evaluate import Floats

Weighted = Callable[[Floats, Truth, Floats], Floats]
"""Maps answers [N, K], truth and weights [R, N] to the figure of each resample [R]."""
BOOTSTRAP, WILSON, NEWCOMBE = "percentile bootstrap", "Wilson", "Newcombe"
LEVEL = 0.95
BLOCK = 4_000_000  # limit of weights in memory while resampling

WEIGHTED: Mapping[TaskKind, Mapping[str, Weighted]] = {
    TaskKind.single_label: evaluate.WEIGHTED,
    TaskKind.multi_label: evaluate_labels.WEIGHTED,
    TaskKind.regression: evaluate_numbers.WEIGHTED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with its confidence interval. The bounds are NaN if they cannot be computed from the images."""

    value: float
    low: float
    high: float
    level: float
    resamples: int
    """The number of resamples that the bounds come from; 0 if they come from a formula."""
    method: str = BOOTSTRAP


def interval(
    answers_NK: Floats,
    truth: Truth,
    metric: str,
    *,
    task: TaskKind = TaskKind.single_label,
    resamples: int = 1000,
    level: float = LEVEL,
) -> Interval:
    """One of the task's figures, with Wilson's interval if it is a proportion, else the bootstrap's.

    Args:
        answers_NK: probabilities, or numbers.
        truth: classes [N], or labels or numbers [N, K].
        metric: the figure's name, such as `accuracy`.
        level: the confidence level.
    """
    shares_of = SHARES.get((task, metric))
    estimate = value(answers_NK, truth, metric, task)
    if shares_of is None or np.isnan(estimate):
        return bootstrap(answers_NK, truth, metric, task=task, resamples=resamples, level=level)
    answers = 1 if truth.ndim == 1 else truth.shape[1]
    low, high = mean_share(shares_of(answers_NK, truth), answers, level)
    return Interval(value=estimate, low=low, high=high, level=level, resamples=0, method=WILSON)


def bootstrap(
    answers_NK: Floats,
    truth: Truth,
    metric: str,
    *,
    task: TaskKind = TaskKind.single_label,
    resamples: int = 1000,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """The percentile bootstrap over images of one of the task's figures [Efron & Tibshirani 1993].

    Resamples for which the figure is undefined do not count. The bounds are NaN if all resamples give the same figure.
    """
    weighted = WEIGHTED[task][metric]
    values_R = _resample(answers_NK, truth, weighted, resamples, seed)
    return _interval(value(answers_NK, truth, metric, task), values_R, level)


def paired_difference(
    first_NK: Floats, second_NK: Floats, truth: Truth, metric: str, *, task: TaskKind = TaskKind.single_label
) -> Interval:
    """The first's figure minus the second's on the same images, with its 95 % interval.

    The interval is Newcombe's for accuracies. For other figures it is the bootstrap's, with the same resamples for
    both.
    """
    gain = value(first_NK, truth, metric, task) - value(second_NK, truth, metric, task)
    if not np.isnan(gain) and (task, metric) == (TaskKind.single_label, "accuracy"):
        low, high = paired_difference_of_shares(first_NK.argmax(1) == truth, second_NK.argmax(1) == truth, LEVEL)
        return Interval(value=gain, low=low, high=high, level=LEVEL, resamples=0, method=NEWCOMBE)
    return paired_bootstrap(first_NK, second_NK, truth, metric, task=task)


def paired_bootstrap(
    first_NK: Floats,
    second_NK: Floats,
    truth: Truth,
    metric: str,
    *,
    task: TaskKind = TaskKind.single_label,
    resamples: int = 1000,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Like `paired_difference`, but always with the percentile bootstrap."""
    weighted = WEIGHTED[task][metric]
    gain = value(first_NK, truth, metric, task) - value(second_NK, truth, metric, task)
    if np.isnan(gain):
        return _interval(gain, np.empty(0), level)
    first_R, second_R = (_resample(answers, truth, weighted, resamples, seed) for answers in (first_NK, second_NK))
    return _interval(gain, first_R - second_R, level)


def value(answers_NK: Floats, truth: Truth, metric: str, task: TaskKind) -> float:
    """One figure; NaN if there are no images, or if an answer is not finite."""
    if not len(truth) or not np.isfinite(answers_NK).all():
        return float("nan")
    return float(WEIGHTED[task][metric](answers_NK, truth, np.ones((1, len(truth))))[0])


def figures(answers_NK: Floats, truth: Truth, task: TaskKind) -> dict[str, float]:
    """All figures of a task, without its loss."""
    return {figure.name: value(answers_NK, truth, figure.name, task) for figure in FIGURES[task]}


def _resample(answers_NK: Floats, truth: Truth, weighted: Weighted, resamples: int, seed: int) -> Floats:
    """The metric of each resample [R]. Equal seeds and numbers of images give equal resamples.

    A resample is a row of weights: how often each image is drawn.
    """
    images = len(truth) if np.isfinite(answers_NK).all() else 0
    generator = np.random.default_rng(seed)
    values: list[Floats] = []
    rows = max(1, BLOCK // max(images, 1))
    for start in range(0, resamples if images else 0, rows):
        count = min(rows, resamples - start)
        draws = generator.integers(0, images, size=(count, images))
        draws += np.arange(count)[:, None] * images
        weights_RN = np.bincount(draws.ravel(), minlength=count * images).reshape(count, images).astype(np.float64)
        values.append(weighted(answers_NK, truth, weights_RN))
    return np.concatenate(values) if values else np.empty(0)


def _interval(value: float, values_R: Floats, level: float) -> Interval:
    """The percentile interval. If all resamples agree, as when every answer is right, it would be too narrow: NaN."""
    values_R = values_R[~np.isnan(values_R)]
    tail = (1 - level) / 2
    varies = len(values_R) and values_R.min() < values_R.max()
    low, high = np.quantile(values_R, [tail, 1 - tail]) if varies else (float("nan"), float("nan"))
    return Interval(value=value, low=float(low), high=float(high), level=level, resamples=len(values_R))
