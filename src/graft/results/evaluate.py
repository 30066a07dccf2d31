"""Figures of merit from probabilities: pure functions of numpy arrays.

Everywhere: `probabilities_NK` holds a row per image and a column per class, `targets_N` the true class of each image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BLOCK = 4_000_000  # weights held at once while resampling


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFigures:
    """Per class, each [K]; a figure that divides by nothing is 0, and `support` tells why."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints
    predicted: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Confidence against accuracy in equally wide bins, each [B]; empty bins hold NaN."""

    edges: Floats  # [B + 1]
    confidence: Floats
    accuracy: Floats
    count: Ints
    error: float  # the expected calibration error


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with the percentile bootstrap's interval."""

    value: float
    low: float
    high: float
    level: float
    resamples: int


def confusion_matrix(probabilities_NK: Floats, targets_N: Ints) -> Ints:
    """Counts [K, K]: a row per true class, a column per predicted class."""
    classes = probabilities_NK.shape[1]
    cells = targets_N * classes + probabilities_NK.argmax(1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def accuracy(probabilities_NK: Floats, targets_N: Ints) -> float:
    """Share of images whose likeliest class is the true one (NaN for no images)."""
    if not len(targets_N):
        return float("nan")
    return float((probabilities_NK.argmax(1) == targets_N).mean())


def class_figures(confusion_KK: Ints) -> ClassFigures:
    support, predicted = confusion_KK.sum(1), confusion_KK.sum(0)
    hits = np.diag(confusion_KK).astype(np.float64)
    return ClassFigures(
        precision=hits / np.maximum(predicted, 1),
        recall=hits / np.maximum(support, 1),
        f1=2 * hits / np.maximum(support + predicted, 1),
        support=support,
        predicted=predicted,
    )


def macro_f1(probabilities_NK: Floats, targets_N: Ints) -> float:
    """Mean F1 over the classes that occur among targets or predictions (as torchmetrics averages)."""
    figures = class_figures(confusion_matrix(probabilities_NK, targets_N))
    occurring = figures.support + figures.predicted > 0
    return float(figures.f1[occurring].mean()) if occurring.any() else float("nan")


def auroc(probabilities_NK: Floats, targets_N: Ints) -> float:
    """Area under the ROC curve: of class 1 for two classes, else the mean of one class against the rest.

    Classes with no image, or with every image, have no curve and are left out of the mean; NaN where none is left.
    """
    return float(_weighted_auroc(probabilities_NK, targets_N, np.ones((1, len(targets_N))))[0])


def reliability(probabilities_NK: Floats, targets_N: Ints, bins: int = 15) -> Reliability:
    """Confidence of the likeliest class against its accuracy, and their mean gap [Guo et al. 2017]."""
    confidence_N = probabilities_NK.max(1)
    correct_N = (probabilities_NK.argmax(1) == targets_N).astype(np.float64)
    edges = np.linspace(0, 1, bins + 1)
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(np.int64) - 1, 0, bins - 1)  # bins are (low, high]
    count = np.bincount(bin_N, minlength=bins)
    confidence_sum = np.bincount(bin_N, weights=confidence_N, minlength=bins)
    correct_sum = np.bincount(bin_N, weights=correct_N, minlength=bins)
    error = float(np.abs(correct_sum - confidence_sum).sum() / max(len(targets_N), 1))
    filled = np.where(count > 0, count, np.nan)
    return Reliability(
        edges=edges, confidence=confidence_sum / filled, accuracy=correct_sum / filled, count=count, error=error
    )


def bootstrap(
    probabilities_NK: Floats,
    targets_N: Ints,
    metric: str,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The percentile bootstrap over images of `accuracy`, `f1` or `auroc` [Efron & Tibshirani 1993].

    Resamples where the metric is undefined do not count.
    """
    drawn = _resample(probabilities_NK, targets_N, metric, resamples, seed)
    return _interval(_value(probabilities_NK, targets_N, metric), drawn, level)


def paired_difference(
    first_NK: Floats,
    second_NK: Floats,
    targets_N: Ints,
    metric: str,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """How much better the first is than the second on the same images, each resample drawn once for both."""
    value = _value(first_NK, targets_N, metric) - _value(second_NK, targets_N, metric)
    first_R, second_R = (_resample(said, targets_N, metric, resamples, seed) for said in (first_NK, second_NK))
    return _interval(value, first_R - second_R, level)


def _value(probabilities_NK: Floats, targets_N: Ints, metric: str) -> float:
    images = len(targets_N)
    return float(_WEIGHTED[metric](probabilities_NK, targets_N, np.ones((1, images)))[0]) if images else float("nan")


def _resample(probabilities_NK: Floats, targets_N: Ints, metric: str, resamples: int, seed: int) -> Floats:
    """The metric on each resample; the seed alone decides which images are drawn.

    A resample is a row of weights: how often it draws each image.
    """
    images = len(targets_N)
    generator = np.random.default_rng(seed)
    values: list[Floats] = []
    rows = max(1, BLOCK // max(images, 1))
    for start in range(0, resamples if images else 0, rows):
        count = min(rows, resamples - start)
        draws = generator.integers(0, images, size=(count, images))
        draws += np.arange(count)[:, None] * images
        weights_RN = np.bincount(draws.ravel(), minlength=count * images).reshape(count, images).astype(np.float64)
        values.append(_WEIGHTED[metric](probabilities_NK, targets_N, weights_RN))
    return np.concatenate(values) if values else np.empty(0)


def _interval(value: float, drawn: Floats, level: float) -> Interval:
    drawn = drawn[~np.isnan(drawn)]
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else (float("nan"), float("nan"))
    return Interval(value=value, low=float(low), high=float(high), level=level, resamples=len(drawn))


def _weighted_accuracy(probabilities_NK: Floats, targets_N: Ints, weights_RN: Floats) -> Floats:
    correct_N = (probabilities_NK.argmax(1) == targets_N).astype(np.float64)
    return weights_RN @ correct_N / weights_RN.sum(1)


def _weighted_f1(probabilities_NK: Floats, targets_N: Ints, weights_RN: Floats) -> Floats:
    is_class_NK = np.eye(probabilities_NK.shape[1])
    true_NK, said_NK = is_class_NK[targets_N], is_class_NK[probabilities_NK.argmax(1)]
    hits_RK = weights_RN @ (true_NK * said_NK)
    total_RK = weights_RN @ (true_NK + said_NK)
    f1_RK = np.where(total_RK > 0, 2 * hits_RK / np.where(total_RK > 0, total_RK, 1), 0)
    return f1_RK.sum(1) / (total_RK > 0).sum(1)


def _weighted_auroc(probabilities_NK: Floats, targets_N: Ints, weights_RN: Floats) -> Floats:
    classes = probabilities_NK.shape[1]
    columns = [1] if classes == 2 else list(range(classes))
    area_R, curves_R = np.zeros(len(weights_RN)), np.zeros(len(weights_RN))
    for column in columns:
        order = np.argsort(probabilities_NK[:, column], kind="stable")
        scores = probabilities_NK[order, column]
        starts = np.flatnonzero(np.diff(scores, prepend=-np.inf))  # one group per distinct score
        positive_N = targets_N[order] == column
        weights = weights_RN[:, order]
        positive_RG = np.add.reduceat(weights * positive_N, starts, axis=1)
        negative_RG = np.add.reduceat(weights * ~positive_N, starts, axis=1)
        below_RG = negative_RG.cumsum(1) - negative_RG / 2  # ties count one half
        pairs_R = positive_RG.sum(1) * negative_RG.sum(1)
        defined = pairs_R > 0
        area_R += np.where(defined, (positive_RG * below_RG).sum(1) / np.where(defined, pairs_R, 1), 0)
        curves_R += defined
    return np.where(curves_R > 0, area_R / np.maximum(curves_R, 1), np.nan)


_WEIGHTED: dict[str, Callable[[Floats, Ints, Floats], Floats]] = {
    "accuracy": _weighted_accuracy,
    "f1": _weighted_f1,
    "auroc": _weighted_auroc,
}
