"""What there is to learn from: the samples of each part, and how they come out of a source's listing."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from graft.config.faults import Fault

PARTS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what it shows."""

    path: str
    label: int
    """Position of its class in Table.classes; metrics are computed against it."""
    target: tuple[float, ...] | None = None
    """Probability of each class, where training uses them (data.targets=soft)."""
    size: int = 0
    """Bytes of the file."""
    modified: int = 0
    """When the file last changed, in nanoseconds since 1970."""

    @property
    def identity(self) -> str:
        """Changes when another file, or another version of the file, stands at the path."""
        return digest((self.path, self.size, self.modified))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Every sample by part."""

    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    """Empty where the data has no test part."""
    skipped: tuple[dict[str, str], ...] = ()
    """Unreadable files left out on request: path and reason of each."""
    identity: str = ""
    """Changes with any path, file version, label or part."""

    def part(self, name: str) -> tuple[Sample, ...]:
        assert name in PARTS, name
        return getattr(self, name)

    def counts(self, part: str) -> tuple[int, ...]:
        """Images of each class, in the order of `classes`."""
        counts = [0] * len(self.classes)
        for sample in self.part(part):
            counts[sample.label] += 1
        return tuple(counts)

    def summary(self) -> dict[str, Any]:
        """For the plan and the report: images of each class in each part, and what was left out."""
        return {
            "classes": list(self.classes),
            "parts": {name: dict(zip(self.classes, self.counts(name), strict=True)) for name in PARTS},
            "skipped": list(self.skipped),
        }


@dataclass(slots=True)
class Entry:
    """A line of a source's listing: an image that should exist, not looked at yet."""

    path: str
    name: str
    """By which it is drawn into a carved part: stays the same when the folder moves."""
    label: int
    part: str = "train"
    target: tuple[float, ...] | None = None
    stratum: Hashable = None
    """Carved parts hold the same share of each; by default the label."""


@dataclass(slots=True, kw_only=True)
class Listing:
    """What a source (folder, table, package) says it has."""

    key: str
    """The config key that led here, named in faults."""
    classes: tuple[str, ...] = ()
    entries: list[Entry] = field(default_factory=list)
    stray: list[tuple[str, str]] = field(default_factory=list)
    """Images that cannot be used where they lie: path and reason."""
    faults: list[Fault] = field(default_factory=list)


def digest(value: object) -> str:
    """A short stable hash of plain values."""
    return hashlib.blake2b(repr(value).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def identity(parts: Iterable[tuple[str, Iterable[Sample]]], classes: tuple[str, ...]) -> str:
    """Table.identity's value."""
    running = hashlib.blake2b(repr(classes).encode("utf-8", "surrogateescape"), digest_size=16)
    for part, samples in parts:
        for sample in samples:
            line = (part, sample.path, sample.label, sample.target, sample.size, sample.modified)
            running.update(repr(line).encode("utf-8", "surrogateescape"))
    return running.hexdigest()
