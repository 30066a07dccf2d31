"""Metrics for multi-label classification: pure functions of numpy arrays.

`probabilities_NK` has one row per image and one column per label, and `truth_NK` is 1 or 0. `weights_RN` has one row
per resample, with the number of times that it contains each image. A label is predicted if its probability is above one
half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graft.tasks.evaluate import Bools, Floats, Ints, area_under_roc, by_score, mean_over_outputs, share

THRESHOLD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFigures:
    """Metrics per label, each [K]; NaN if undefined."""

    precision: Floats
    recall: Floats
    f1: Floats
    average_precision: Floats
    auroc: Floats
    support: Ints
    positives: Ints


def label_figures(probabilities_NK: Floats, truth_NK: Floats) -> LabelFigures:
    predicted_NK, true_NK = probabilities_NK > THRESHOLD, truth_NK > 0
    hits, positives, support = (predicted_NK & true_NK).sum(0), predicted_NK.sum(0), true_NK.sum(0)
    once = np.ones((1, len(truth_NK)))
    columns = list(zip(probabilities_NK.T, true_NK.T, strict=True))
    return LabelFigures(
        precision=share(hits, positives),
        recall=share(hits, support),
        f1=np.where(support > 0, share(2 * hits, positives + support), np.nan),
        average_precision=np.array([_average_precision(*column, once)[0] for column in columns]),
        auroc=np.array([area_under_roc(*column, once)[0] for column in columns]),
        support=support,
        positives=positives,
    )


def _average_precision(scores_N: Floats, positive_N: Bools, weights_RN: Floats) -> Floats:
    """Average precision for each resample [R]: precision at each score, weighted by the positives there; NaN if there
    are only positives or only negatives."""
    positive_RG, negative_RG = (counted[:, ::-1] for counted in by_score(scores_N, positive_N, weights_RN))
    found_RG, false_RG = positive_RG.cumsum(1), negative_RG.cumsum(1)
    precision_RG = found_RG / np.maximum(found_RG + false_RG, 1)
    all_R = found_RG[:, -1]
    defined = all_R * false_RG[:, -1] > 0
    return np.where(defined, (positive_RG * precision_RG).sum(1) / np.where(defined, all_R, 1), np.nan)


def _weighted_map(probabilities_NK: Floats, truth_NK: Floats, weights_RN: Floats) -> Floats:
    columns = zip(probabilities_NK.T, truth_NK.T > 0, strict=True)
    return mean_over_outputs(np.stack([_average_precision(*column, weights_RN) for column in columns], axis=1))


def _weighted_auroc(probabilities_NK: Floats, truth_NK: Floats, weights_RN: Floats) -> Floats:
    columns = zip(probabilities_NK.T, truth_NK.T > 0, strict=True)
    return mean_over_outputs(np.stack([area_under_roc(*column, weights_RN) for column in columns], axis=1))


def _counts(probabilities_NK: Floats, truth_NK: Floats, weights_RN: Floats) -> tuple[Floats, Floats, Floats]:
    """True positives, images with each label and images predicted to have it, [R, K]."""
    predicted_NK = (probabilities_NK > THRESHOLD).astype(np.float64)
    return weights_RN @ (predicted_NK * truth_NK), weights_RN @ truth_NK, weights_RN @ predicted_NK


def _f1(hits: Floats, support: Floats, positives: Floats) -> Floats:
    return np.where(support > 0, share(2 * hits, support + positives), np.nan)


def _weighted_f1(probabilities_NK: Floats, truth_NK: Floats, weights_RN: Floats) -> Floats:
    """The mean over the labels that occur."""
    return mean_over_outputs(_f1(*_counts(probabilities_NK, truth_NK, weights_RN)))


def _weighted_micro_f1(probabilities_NK: Floats, truth_NK: Floats, weights_RN: Floats) -> Floats:
    return _f1(*(counted_RK.sum(1) for counted_RK in _counts(probabilities_NK, truth_NK, weights_RN)))


def _weighted_accuracy(probabilities_NK: Floats, truth_NK: Floats, weights_RN: Floats) -> Floats:
    right_N = ((probabilities_NK > THRESHOLD) == (truth_NK > 0)).mean(1)
    return weights_RN @ right_N / weights_RN.sum(1)


WEIGHTED: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "map": _weighted_map,
    "f1": _weighted_f1,
    "f1_micro": _weighted_micro_f1,
    "auroc": _weighted_auroc,
    "label_accuracy": _weighted_accuracy,
}
"""Each figure on each resample [R]."""
