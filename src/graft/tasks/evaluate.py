"""Metrics for single-label classification: pure functions of numpy arrays.

`probabilities_NK` has one row per image and one column per class, and `targets_N` the true class of each image.
`weights_RN` has one row per resample, with the number of times that it contains each image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFigures:
    """Metrics per class, each [K]; NaN if undefined, which `support` or `predicted` explains."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints
    predicted: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Confidence and accuracy in bins of equal width, each [B]; NaN for empty bins."""

    edges: Floats  # [B + 1]
    confidence: Floats
    accuracy: Floats
    count: Ints
    error: float  # the expected calibration error


def confusion_matrix(probabilities_NK: Floats, targets_N: Ints) -> Ints:
    """Counts [K, K], with one row per true class and one column per predicted class."""
    classes = probabilities_NK.shape[1]
    cells = targets_N * classes + probabilities_NK.argmax(1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def accuracy(probabilities_NK: Floats, targets_N: Ints) -> float:
    """Fraction of images whose most likely class is the true one (NaN for no images)."""
    if not len(targets_N):
        return float("nan")
    return float((probabilities_NK.argmax(1) == targets_N).mean())


def class_figures(confusion_KK: Ints) -> ClassFigures:
    support, predicted = confusion_KK.sum(1), confusion_KK.sum(0)
    hits = np.diag(confusion_KK).astype(np.float64)
    return ClassFigures(
        precision=share(hits, predicted),
        recall=share(hits, support),
        f1=np.where(support > 0, share(2 * hits, support + predicted), np.nan),
        support=support,
        predicted=predicted,
    )


def macro_f1(probabilities_NK: Floats, targets_N: Ints) -> float:
    """Mean F1 over the classes that occur; NaN for no images."""
    figures = class_figures(confusion_matrix(probabilities_NK, targets_N))
    present = figures.support > 0
    return float(figures.f1[present].mean()) if present.any() else float("nan")


def share(parts: Floats, wholes: NDArray[Any]) -> Floats:
    """The parts divided by the wholes; NaN where a whole is 0."""
    return np.where(wholes > 0, parts / np.where(wholes > 0, wholes, 1), np.nan)


def auroc(probabilities_NK: Floats, targets_N: Ints) -> float:
    """Area under the ROC curve: of class 1 for two classes, otherwise the mean of one class against the rest.

    Classes with no image, or with every image, have no curve and are left out of the mean; NaN if none remains.
    """
    return float(_weighted_auroc(probabilities_NK, targets_N, np.ones((1, len(targets_N))))[0])


def reliability(probabilities_NK: Floats, targets_N: Ints, bins: int = 15) -> Reliability:
    """Confidence of the most likely class, its accuracy, and their mean gap (the expected calibration error) [Guo et
    al. 2017]."""
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


def _weighted_accuracy(probabilities_NK: Floats, targets_N: Ints, weights_RN: Floats) -> Floats:
    correct_N = (probabilities_NK.argmax(1) == targets_N).astype(np.float64)
    return weights_RN @ correct_N / weights_RN.sum(1)


def _weighted_f1(probabilities_NK: Floats, targets_N: Ints, weights_RN: Floats) -> Floats:
    is_class_NK = np.eye(probabilities_NK.shape[1])
    true_NK, predicted_NK = is_class_NK[targets_N], is_class_NK[probabilities_NK.argmax(1)]
    support_RK = weights_RN @ true_NK
    f1_RK = share(2 * (weights_RN @ (true_NK * predicted_NK)), support_RK + weights_RN @ predicted_NK)
    return mean_over_outputs(np.where(support_RK > 0, f1_RK, np.nan))


def _weighted_auroc(probabilities_NK: Floats, targets_N: Ints, weights_RN: Floats) -> Floats:
    classes = probabilities_NK.shape[1]
    columns = [1] if classes == 2 else list(range(classes))
    areas_KR = [area_under_roc(probabilities_NK[:, k], targets_N == k, weights_RN) for k in columns]
    return mean_over_outputs(np.stack(areas_KR, axis=1))


def area_under_roc(scores_N: Floats, positive_N: Bools, weights_RN: Floats) -> Floats:
    """The area for each resample [R]: the fraction of correctly ordered pairs, where a tie counts one half; NaN if
    there are only positives or only negatives."""
    positive_RG, negative_RG = by_score(scores_N, positive_N, weights_RN)
    below_RG = negative_RG.cumsum(1) - negative_RG / 2
    pairs_R = positive_RG.sum(1) * negative_RG.sum(1)
    defined = pairs_R > 0
    return np.where(defined, (positive_RG * below_RG).sum(1) / np.where(defined, pairs_R, 1), np.nan)


def by_score(scores_N: Floats, positive_N: Bools, weights_RN: Floats) -> tuple[Floats, Floats]:
    """Number of positives and of negatives [R, G] at each distinct score, in increasing order."""
    order = np.argsort(scores_N, kind="stable")
    starts = np.flatnonzero(np.diff(scores_N[order], prepend=-np.inf))
    positive_N, weights_RN = positive_N[order], weights_RN[:, order]
    return (
        np.add.reduceat(weights_RN * positive_N, starts, axis=1),
        np.add.reduceat(weights_RN * ~positive_N, starts, axis=1),
    )


def mean_over_outputs(figures_RK: Floats) -> Floats:
    """The mean over the outputs for which the metric is defined in each resample [R]; NaN if there are none."""
    counted_R = (~np.isnan(figures_RK)).sum(1)
    return np.where(counted_R > 0, np.nansum(figures_RK, axis=1) / np.maximum(counted_R, 1), np.nan)


WEIGHTED: dict[str, Callable[[Floats, Ints, Floats], Floats]] = {
    "accuracy": _weighted_accuracy,
    "f1": _weighted_f1,
    "auroc": _weighted_auroc,
}
"""Each figure on each resample [R]."""
