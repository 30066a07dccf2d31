"""Wilson's score intervals of proportions.

Unlike the bootstrap's, they have a width even if every answer is right.
"""

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
    """Wilson's score interval of a proportion [Wilson 1927].

    Args:
        share: the proportion, from 0 to 1.
        answers: the number of independent answers that it is a proportion of; it may be a fraction.
        level: the confidence level, such as 0.95.

    Returns:
        The lower and the upper bound.

    Example:
        >>> low, high = wilson(20 / 20, 20, 0.95)
        >>> round(low, 3), round(high, 3)
        (0.839, 1.0)
    """
    z2 = _z(level) ** 2
    centre = (share + z2 / (2 * answers)) / (1 + z2 / answers)
    half = sqrt(z2 / answers * (share * (1 - share) + z2 / (4 * answers))) / (1 + z2 / answers)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_share(shares_N: Floats, answers: int, level: float) -> tuple[float, float]:
    """Wilson's interval of the mean of the images' shares.

    Answers to the same image are not independent. Their effective number follows from the variance between images, and
    lies between one per image and all of them [Kish 1965, the design effect].

    Args:
        shares_N: each image's share of right answers.
        answers: the number of answers per image.
        level: the confidence level.
    """
    images, share = len(shares_N), float(shares_N.mean())
    variance = float(shares_N.var(ddof=1)) if images > 1 else 0.0
    alike = 0 < share < 1 and variance > 0
    independent = share * (1 - share) * images / variance if alike else images
    return wilson(share, min(max(independent, images), images * answers), level)


def paired_difference_of_shares(first_N: Bools, second_N: Bools, level: float) -> tuple[float, float]:
    """The interval of the difference of two proportions on the same images [Newcombe 1998, method 10].

    It combines the Wilson intervals of both with their correlation, corrected for continuity.

    Args:
        first_N: whether the first is right, for each image.
        second_N: whether the second is right.

    Returns:
        The lower and the upper bound of the first's proportion minus the second's.
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
"""For each figure that is a mean of shares, the function that gives each image's share of right answers [N]."""
