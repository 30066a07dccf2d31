"""What a benchmark compares: ways to do one thing, in turns, and what graft promises of its own."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one turn of one way came to."""

    value: float
    """Seconds, or bytes."""
    processor: float | None = None
    """Seconds of processor time, of all threads and children, where the value is the wall clock's."""
    beside: Mapping[str, float] = field(default_factory=dict[str, float])
    """What was reached at that price: an accuracy, images a second."""


Measure = Callable[[], Measured]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to do it."""

    name: str
    measure: Measure
    reached: Callable[[], Mapping[str, float]] = dict[str, float]
    """Asked once, behind the last turn: what all of them came to in the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What graft promises of its way beside another."""

    factor: float
    faster: bool = False
    """Whether the other's figure over ours must be at least `factor`; else ours over the other's at most that."""
    plus: float = 0.0
    """What ours may take on top, in the comparison's unit."""

    def ratio(self, ours: float, other: float) -> float:
        return other / ours if self.faster else (ours - self.plus) / other

    def holds(self, ratio: float) -> bool:
        return ratio >= self.factor if self.faster else ratio <= self.factor

    def __str__(self) -> str:
        return f"at least {self.factor:g}" if self.faster else f"at most {self.factor:g}"


SHOWN = Limit(factor=0.0, faster=True)
"""No promise: the other's figure over ours is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """Another way, and what graft promises beside it."""

    way: Way
    limit: Limit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Ready to be measured."""

    what: str
    """What all of them do, with its size."""
    ours: Way
    others: Sequence[Against]
    unit: str = "s"
    """s or bytes."""
    warm_up: int = 0
    """Turns that are not counted: they fill caches and make threads."""
    turns: int = 1
    """In each repeat: more where a turn is a training step rather than a training."""


class CaseModule(Protocol):
    """A case's module: what it can be told, and its comparisons.

    `make` builds them one after the other as they are asked for; what it needs on disk it writes below `folder`, which
    is removed afterwards.
    """

    REPEATS: int
    """Counted turns unless --repeats says otherwise."""

    def configure(self, parser: argparse.ArgumentParser) -> None: ...
    def make(self, args: argparse.Namespace, folder: Path) -> Sequence[Comparison]: ...


def beside(measure: Measure, told: Mapping[str, float]) -> Measure:
    """The same, with what each turn tells besides."""
    return lambda: replace(measure(), beside=told)


def timed(call: Callable[[], object]) -> Measure:
    """The seconds of a call in this process."""

    def measure() -> Measured:
        wall, processor = perf_counter(), process_time()
        call()
        return Measured(value=perf_counter() - wall, processor=process_time() - processor)

    return measure
