"""Intervals of proportions by Wilson's score, which have a width where all is right too, as resampling has not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt
from statistics import NormalDist

import numpy as np

from graft.config.choices import TaskKind
from graft.results.left_out import Truth
from graft.tasks.evaluate import Bools, Floats
from graft.tasks.evaluate_labels import THRESHOLD


def wilson(share: float, answers: float, level: float) -> tuple[float, float]:
    """The score interval of a share of so many independent answers [Wilson 1927]; 20 of 20 is 0.839 to 1."""
    z2 = _z(level) ** 2
    centre = (share + z2 / (2 * answers)) / (1 + z2 / answers)
    half = sqrt(z2 / answers * (share * (1 - share) + z2 / (4 * answers))) / (1 + z2 / answers)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_share(shares_N: Floats, answers: int, level: float) -> tuple[float, float]:
    """Wilson's interval of the mean of the images' shares.

    Several answers to one image are not independent of each other: they count as so many as explain how much the
    images differ, from one an image to all of them [Kish 1965, the design effect].

    Args:
        answers: to each image.
    """
    images, share = len(shares_N), float(shares_N.mean())
    variance = float(shares_N.var(ddof=1)) if images > 1 else 0.0
    alike = 0 < share < 1 and variance > 0
    independent = share * (1 - share) * images / variance if alike else images
    return wilson(share, min(max(independent, images), images * answers), level)


def paired_difference_of_shares(first_N: Bools, second_N: Bools, level: float) -> tuple[float, float]:
    """Of two shares of the same images: the interval of the first less the second [Newcombe 1998, method 10].

    It joins the Wilson intervals of both, with the correlation of what was right (corrected for continuity).
    """
    images = len(first_N)
    one, other = float(first_N.mean()), float(second_N.mean())
    (low_1, high_1), (low_2, high_2) = wilson(one, images, level), wilson(other, images, level)
    both, neither = float((first_N & second_N).sum()), float((~first_N & ~second_N).sum())
    only_1, only_2 = float((first_N & ~second_N).sum()), float((~first_N & second_N).sum())
    product = both * neither - only_1 * only_2
    product = max(product - images / 2, 0.0) if product > 0 else product
    scale = sqrt((both + only_1) * (only_2 + neither) * (both + only_2) * (only_1 + neither))
    correlation = product / scale if scale else 0.0

    def joined(mine: float, theirs: float) -> float:
        return sqrt(max(mine**2 - 2 * correlation * mine * theirs + theirs**2, 0.0))

    gain = one - other
    return gain - joined(one - low_1, high_2 - other), gain + joined(high_1 - one, other - low_2)


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _right(answers_NK: Floats, truth: Truth) -> Floats:
    return (answers_NK.argmax(1) == truth).astype(np.float64)


def _right_labels(answers_NK: Floats, truth: Truth) -> Floats:
    return ((answers_NK > THRESHOLD) == (truth > 0)).mean(1)


SHARES: Mapping[tuple[TaskKind, str], Callable[[Floats, Truth], Floats]] = {
    (TaskKind.single_label, "accuracy"): _right,
    (TaskKind.multi_label, "label_accuracy"): _right_labels,
}
"""Of the figures that are a mean of shares: each image's share of right answers [N]."""
