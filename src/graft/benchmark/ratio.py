"""Two ways to do one thing, timed in turns: the ratio of their times, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

Quartiles = tuple[float, float, float]
"""First quartile, median, third."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Seconds of both, repeat by repeat: what disturbs the machine disturbs neighbours, and so leaves their ratio."""

    ours: Sequence[float]
    reference: Sequence[float]

    @property
    def ratio(self) -> Quartiles:
        """Of the repeats' own ratios."""
        return quartiles([mine / other for mine, other in zip(self.ours, self.reference, strict=True)])


def interleave(
    ours: Callable[[], object],
    reference: Callable[[], object],
    *,
    repeats: int,
    warm_up: int = 2,
    clock: Callable[[], float] = perf_counter,
) -> Ratio:
    """Times both in one process, in turns; each repeat begins with the other of the two.

    Args:
        warm_up: Turns that are not counted: they fill caches and make threads.
    """
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(warm_up + repeats):
        for mine in (True, False) if turn % 2 else (False, True):
            start = clock()
            (ours if mine else reference)()
            if turn >= warm_up:
                seconds[mine].append(clock() - start)
    return Ratio(ours=seconds[True], reference=seconds[False])


def quartiles(values: Sequence[float]) -> Quartiles:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, median(values), high
