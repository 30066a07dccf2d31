"""The decision threshold of two classes, chosen by a sensitivity or by the cost of mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import numpy as np

from graft.config.faults import InputError
from graft.results.predictions import Predictions
from graft.results.proportions import wilson
from graft.tasks.evaluate import Bools, Floats

LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A threshold that was chosen on the validation images, with exactly one of `sensitivity` and `cost`."""

    positive: str
    """The positive class."""
    probability: float
    """The positive class is predicted from this probability on."""
    sensitivity: float | None = None
    """The smallest share of positive images to be recognized."""
    cost: float | None = None
    """The cost of a missed positive image, in false alarms."""

    def record(self, parts: Mapping[str, Predictions], classes: Sequence[str]) -> dict[str, Any]:
        """The threshold and its outcomes on each part, for metrics.json and model.json."""
        place = list(classes).index(self.positive)
        counts = {
            part: outcomes(each.answers_NK[:, place], each.truth == place, self.probability, self.cost)
            for part, each in parts.items()
        }
        return {**asdict(self), "parts": counts}


def choose_threshold(
    val: Predictions, classes: Sequence[str], positive: str, sensitivity: float | None, cost: float | None
) -> Threshold:
    """Chooses the threshold on the validation images, by sensitivity or by cost.

    Args:
        val: predictions of the validation part.
        positive: name of the positive class.
        sensitivity: the smallest share of positive images to be recognized, or None.
        cost: the cost of a miss in false alarms. It must be given if `sensitivity` is None, and is ignored otherwise.

    Raises:
        InputError: a sensitivity is given and no validation image is positive.
    """
    place = list(classes).index(positive)
    scores_N, holds_N = val.answers_NK[:, place], val.truth == place
    if sensitivity is not None:
        if not holds_N.any():
            raise no_positive(positive)
        probability = by_sensitivity(scores_N, holds_N, sensitivity)
    else:
        assert cost is not None, "one of both"
        probability = by_cost(scores_N, holds_N, cost)
    return Threshold(positive=positive, probability=probability, sensitivity=sensitivity, cost=cost)


def no_positive(positive: str) -> InputError:
    return InputError(
        f"results.sensitivity: expected validation images of {positive}, received none; try results.cost, or more"
        " validation images"
    )


def read_threshold(record: Mapping[str, Any]) -> Threshold | None:
    """The threshold in model.json; None if there is none.

    Raises:
        InputError: it is malformed.
    """
    stored = record.get("threshold")
    if stored is None:
        return None
    try:
        threshold = Threshold(
            positive=str(stored["positive"]),
            probability=float(stored["probability"]),
            **{name: None if stored[name] is None else float(stored[name]) for name in ("sensitivity", "cost")},
        )
        if threshold.positive not in record["classes"] or not 0 <= threshold.probability <= 1:
            raise ValueError("a threshold of one of the classes, from 0 to 1")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"model.json: expected a threshold as graft writes it, received {stored} ({error}); try exporting the model"
            " again"
        ) from error
    return threshold


def in_words(record: Mapping[str, Any], part: str) -> str:
    """One line for the terminal."""
    counts = record["parts"][part]
    shares = ", ".join(
        f"{name} {counts[name]:.3f} ({counts[f'{name}_interval'][0]:.3f} to {counts[f'{name}_interval'][1]:.3f})"
        for name in ("sensitivity", "specificity")
        if counts[name] is not None
    )
    return f"{record['positive']} from a probability of {record['probability']:.3g}: {part} {shares}"


def by_sensitivity(positive_N: Floats, holds_N: Bools, least: float) -> float:
    """The highest threshold at which at least this share of the positive images is recognized.

    The threshold lies midway between two scores.

    Args:
        positive_N: each image's probability of the positive class.
        holds_N: whether it is of that class. At least one must be.
        least: the share, above 0 and at most 1.

    Example:
        >>> by_sensitivity(np.array([0.1, 0.4, 0.6, 0.9]), np.array([False, True, False, True]), 1.0)
        0.25
    """
    scores = np.sort(positive_N[holds_N])[::-1]
    lowest = float(scores[ceil(least * len(scores) - 1e-9) - 1])
    return _between(positive_N, lowest)


def by_cost(positive_N: Floats, holds_N: Bools, cost: float) -> float:
    """The threshold with the lowest cost of mistakes.

    Of several with equal cost, it is the one nearest to 1/(1 + cost), the optimum for exact probabilities.

    Args:
        positive_N: each image's probability of the positive class.
        holds_N: whether it is of that class.
        cost: the cost of a miss, in false alarms.

    Example:
        >>> by_cost(np.array([0.1, 0.4, 0.6, 0.9]), np.array([False, True, False, True]), 3.0)
        0.25
    """
    scores = np.unique(positive_N)
    edges = np.concatenate([[0.0], (scores[1:] + scores[:-1]) / 2, [1.0]])
    misses = np.searchsorted(np.sort(positive_N[holds_N]), edges)
    alarms = (~holds_N).sum() - np.searchsorted(np.sort(positive_N[~holds_N]), edges)
    price = cost * misses + alarms
    best = price.min()
    lows = np.concatenate([[0.0], scores])  # thresholds between two scores make the same mistakes
    highs = np.concatenate([scores, [1.0]])
    ideal = 1 / (1 + cost)
    spans = [
        (float(low), float(high))
        for low, high, each in zip(lows, highs, price, strict=True)
        if np.isclose(each, best, rtol=0, atol=1e-9)
    ]
    low, high = min(spans, key=lambda span: max(span[0] - ideal, ideal - span[1], 0.0))
    return ideal if low < ideal <= high else (low + high) / 2


def _between(positive_N: Floats, score: float) -> float:
    """Midway between a score and the next lower one, so that rounding the scores changes no prediction."""
    below = positive_N[positive_N < score]
    return (score + float(below.max())) / 2 if len(below) else score / 2


def outcomes(positive_N: Floats, holds_N: Bools, threshold: float, cost: float | None = None) -> dict[str, Any]:
    """The outcomes of a threshold on a part: counts, and sensitivity and specificity with Wilson's intervals.

    Args:
        positive_N: each image's probability of the positive class.
        holds_N: whether it is of that class.
        cost: the cost of a miss in false alarms; with it the mean cost per image is added.
    """
    named_N = positive_N >= threshold
    hits, misses = int((named_N & holds_N).sum()), int((~named_N & holds_N).sum())
    alarms, rejections = int((named_N & ~holds_N).sum()), int((~named_N & ~holds_N).sum())
    counts: dict[str, Any] = {"hits": hits, "misses": misses, "false_alarms": alarms, "rejections": rejections}
    for name, right, wrong in (("sensitivity", hits, misses), ("specificity", rejections, alarms)):
        whole = right + wrong
        counts[name] = right / whole if whole else None
        counts[f"{name}_interval"] = list(wilson(right / whole, whole, LEVEL)) if whole else None
    if cost is not None:
        counts["cost"] = (cost * misses + alarms) / max(len(holds_N), 1)
    return counts


def positive_class(classes: Sequence[str], wanted: str | None, key: str) -> int:
    """The index of the positive class: the second of the two unless another is named.

    Args:
        wanted: its name, if given.
        key: the config key that asks for a threshold, for the message.

    Raises:
        InputError: there are not exactly two classes, or none has that name.
    """
    if len(classes) != 2:
        raise InputError(
            f"{key}: expected data of two classes, received {len(classes)} ({', '.join(classes[:5])}); try without it"
        )
    if wanted is None:
        return 1
    if wanted not in classes:
        raise InputError(
            f"results.positive: expected one of {', '.join(classes)}, received {wanted!r}; try"
            f" results.positive={classes[1]}"
        )
    return classes.index(wanted)
