"""Whether two runs differ by more than chance: paired tests and intervals on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, isnan

from graft.config.choices import TaskKind
from graft.config.figures import Figure, headline
from graft.results.predictions import Predictions, in_order_of
from graft.results.resampling import Interval, paired_bootstrap, paired_difference, value
from graft.tasks.evaluate import Bools

ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class McNemar:
    """The exact test of the hypothesis that two networks are right equally often on the same images."""

    first_alone: int
    """The number of images that only the first classifies correctly."""
    second_alone: int
    p: float
    """The two-sided p-value: the probability of a difference of at least this size under the hypothesis."""


def mcnemar(first_N: Bools, second_N: Bools) -> McNemar:
    """McNemar's exact, two-sided test [McNemar 1947].

    It counts the images that exactly one network classifies correctly. Under the hypothesis, each of them is equally
    likely to be the first's or the second's.

    Args:
        first_N: whether the first is right, for each image.
        second_N: whether the second is right.

    Example:
        >>> import numpy as np
        >>> mcnemar(np.array([True] * 6), np.array([False] * 6)).p
        0.03125
    """
    first_alone, second_alone = int((first_N & ~second_N).sum()), int((~first_N & second_N).sum())
    both = first_alone + second_alone
    tail = sum(comb(both, k) for k in range(min(first_alone, second_alone) + 1))
    return McNemar(first_alone=first_alone, second_alone=second_alone, p=min(1.0, 2 * tail / 2**both))


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """The comparison of two runs by their task's headline figure on one part."""

    part: str
    images: int
    figure: Figure
    first: float
    second: float
    difference: Interval
    """The first's figure minus the second's. Its interval is Newcombe's for accuracies, else the bootstrap's."""
    bootstrap: Interval
    test: McNemar | None
    """For single-label tasks."""

    @property
    def could_be_chance(self) -> bool:
        """Whether the exact test, or else the interval, is compatible with no difference."""
        if self.test is not None:
            return self.test.p >= ALPHA
        return isnan(self.difference.low) or self.difference.low <= 0 <= self.difference.high

    def sentence(self, names: tuple[str, str]) -> str:
        """The result in one sentence.

        Args:
            names: what to call the first and the second run.
        """
        scale, unit = (100, " points") if self.figure.is_share else (1, "")
        gap, sign = self.difference, ".1f" if self.figure.is_share else ".3g"
        span = (
            f"95 % interval {scale * gap.low:+{sign}} to {scale * gap.high:+{sign}}"
            if not isnan(gap.low)
            else "the same in every resample"
        )
        test = (
            f"; {self.test.first_alone} images right in it alone, {self.test.second_alone} in the other alone,"
            f" McNemar's exact p {self.test.p:.2g}"
            if self.test
            else ""
        )
        verdict = "this could be chance" if self.could_be_chance else "this is more than chance"
        return (
            f"{self.part} {self.figure.title} of {names[0]} minus that of {names[1]}: {scale * gap.value:+{sign}}{unit}"
            f" on {self.images:,} images ({span}{test}): {verdict}."
        )


def compare(first: Predictions, second: Predictions) -> Paired | None:
    """Compares two runs on one part; None if their images differ."""
    other = in_order_of(first, second)
    if other is None or not len(first.paths):
        return None
    figure, task = headline(first.task), first.task
    answers = first.answers_NK, other.answers_NK, first.truth
    ends = (value(each, first.truth, figure.name, task) for each in answers[:2])
    is_one_class = task is TaskKind.single_label
    right = [each.argmax(1) == first.truth for each in answers[:2]] if is_one_class else []
    return Paired(
        part=first.part,
        images=len(first.paths),
        figure=figure,
        first=next(ends),
        second=next(ends),
        difference=paired_difference(*answers, figure.name, task=task),
        bootstrap=paired_bootstrap(*answers, figure.name, task=task),
        test=mcnemar(right[0], right[1]) if is_one_class else None,
    )
