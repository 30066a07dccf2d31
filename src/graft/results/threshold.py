"""The probability from which the positive one of two classes is named: by a sensitivity, or by what mistakes cost."""

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
    """Chosen on the validation images; as model.json keeps it."""

    positive: str
    """The class that is looked for."""
    probability: float
    """From which it is named."""
    sensitivity: float | None = None
    """What it was chosen by: the least share of the positive images that it finds,"""
    cost: float | None = None
    """or so many false alarms that a miss costs as much as."""

    def record(self, parts: Mapping[str, Predictions], classes: Sequence[str]) -> dict[str, Any]:
        """For metrics.json and model.json: the threshold, and what it comes to on each part."""
        place = list(classes).index(self.positive)
        counts = {
            part: outcomes(each.answers_NK[:, place], each.truth == place, self.probability, self.cost)
            for part, each in parts.items()
        }
        return {**asdict(self), "parts": counts}


def choose_threshold(
    val: Predictions, classes: Sequence[str], positive: str, sensitivity: float | None, cost: float | None
) -> Threshold:
    """On the validation images.

    Args:
        sensitivity: the one, or
        cost: the other.

    Raises:
        InputError: no validation image is of the positive class.
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
    """Of model.json; None where a run had none.

    Raises:
        InputError: something else stands there.
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
    """A line of the terminal."""
    counts = record["parts"][part]
    shares = ", ".join(
        f"{name} {counts[name]:.3f} ({counts[f'{name}_interval'][0]:.3f} to {counts[f'{name}_interval'][1]:.3f})"
        for name in ("sensitivity", "specificity")
        if counts[name] is not None
    )
    return f"{record['positive']} from a probability of {record['probability']:.3g}: {part} {shares}"


def by_sensitivity(positive_N: Floats, holds_N: Bools, least: float) -> float:
    """The highest threshold at which this share of the positive images, at least, is named so.

    Args:
        positive_N: each image's probability of the positive class.
        holds_N: whether it is of that class.
    """
    scores = np.sort(positive_N[holds_N])[::-1]
    lowest = float(scores[ceil(least * len(scores) - 1e-9) - 1])
    return _between(positive_N, lowest)


def by_cost(positive_N: Floats, holds_N: Bools, cost: float) -> float:
    """The threshold whose mistakes cost least, where a miss costs so many false alarms.

    Of several that cost the same it is the nearest to 1/(1 + cost), which is the best of exact probabilities.
    """
    scores = np.unique(positive_N)
    edges = np.concatenate([[0.0], (scores[1:] + scores[:-1]) / 2, [1.0]])
    misses = np.searchsorted(np.sort(positive_N[holds_N]), edges)
    alarms = (~holds_N).sum() - np.searchsorted(np.sort(positive_N[~holds_N]), edges)
    price = cost * misses + alarms
    best = price.min()
    lows = np.concatenate([[0.0], scores])  # above a score and up to the next one, mistakes are the same
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
    """Midway between a score and the next lower one: it names what the score names, in any rounding."""
    below = positive_N[positive_N < score]
    return (score + float(below.max())) / 2 if len(below) else score / 2


def outcomes(positive_N: Floats, holds_N: Bools, threshold: float, cost: float | None = None) -> dict[str, Any]:
    """What a threshold comes to on a part: counts, sensitivity and specificity with Wilson's intervals."""
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
    """The place of the class that is looked for; by default the second of two.

    Args:
        key: of the config, that asks for a threshold.

    Raises:
        InputError: there are not two classes, or none of that name.
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
