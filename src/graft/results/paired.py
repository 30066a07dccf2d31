"""Whether two runs differ by more than chance: tests and intervals on the same images, image by image."""

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
    """Of two networks' answers to the same images: the exact test that neither is right more often."""

    first_alone: int
    """Images that the first alone names rightly."""
    second_alone: int
    p: float
    """The probability of so unequal numbers, or more unequal ones, where both are right as often."""


def mcnemar(first_N: Bools, second_N: Bools) -> McNemar:
    """Exact and two-sided: of the images that one of both has right, either is as likely [McNemar 1947].

    Args:
        first_N: which images the first has right.
    """
    first_alone, second_alone = int((first_N & ~second_N).sum()), int((~first_N & second_N).sum())
    both = first_alone + second_alone
    tail = sum(comb(both, k) for k in range(min(first_alone, second_alone) + 1))
    return McNemar(first_alone=first_alone, second_alone=second_alone, p=min(1.0, 2 * tail / 2**both))


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """The first run against the second, by their task's headline figure on one part."""

    part: str
    images: int
    figure: Figure
    first: float
    second: float
    difference: Interval
    """Of accuracies Newcombe's, of other figures the bootstrap's."""
    bootstrap: Interval
    test: McNemar | None
    """Where an image has one class."""

    @property
    def could_be_chance(self) -> bool:
        """By the exact test where there is one, else by whether the interval holds 0."""
        if self.test is not None:
            return self.test.p >= ALPHA
        return isnan(self.difference.low) or self.difference.low <= 0 <= self.difference.high

    def sentence(self, names: tuple[str, str]) -> str:
        """What a person wants to know."""
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
            f"{self.part} {self.figure.title} of {names[0]} less that of {names[1]}: {scale * gap.value:+{sign}}{unit}"
            f" on {self.images:,} images ({span}{test}): {verdict}."
        )


def compare(first: Predictions, second: Predictions) -> Paired | None:
    """None where they are not about the same images."""
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
