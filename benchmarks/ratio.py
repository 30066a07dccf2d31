"""Several ways to do one thing, measured in turns: the ratios of their figures, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles

from benchmarks.case import Measure, Measured

Quartiles = tuple[float, float, float]
"""First quartile, median, third."""


def interleave(measures: Sequence[Measure], *, repeats: int, warm_up: int = 0) -> list[list[Measured]]:
    """What each way came to, repeat by repeat: what disturbs the machine disturbs neighbours, and leaves their ratio.

    Each repeat begins with the next of the ways.

    Args:
        warm_up: Turns that are not counted.
    """
    found: list[list[Measured]] = [[] for _ in measures]
    for turn in range(warm_up + repeats):
        for place in range(len(measures)):
            way = (turn + place) % len(measures)
            measured = measures[way]()
            if turn >= warm_up:
                found[way].append(measured)
    return found


def quartiles(values: Sequence[float]) -> Quartiles:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, median(values), high
