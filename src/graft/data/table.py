"""What there is to learn from: the samples of each part, and how they come out of a source's listing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from graft.config.choices import TaskKind
from graft.config.faults import Fault
from graft.tasks.labels import LABELS, Label, Labels, counts

PARTS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what it shows."""

    path: str
    label: Label
    """Metrics are computed against it."""
    target: tuple[float, ...] | None = None
    """Probability of each class, where training uses them (data.targets=soft)."""
    content: str = ""
    """A hash of the file's bytes: by it an image is the same or another, wherever and whenever it was written."""
    picture: str = ""
    """The same for files that show the same picture, pixel for pixel, and for no others of the table."""
    group: str = ""
    """Images of one group stay in one part (data.group); empty where there are no groups."""
    fold: int | None = None
    """Of data.folds, the one that it is in; None without folds, and for images of the test part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Every sample by part."""

    classes: tuple[str, ...]
    """Names of the network's outputs: classes, labels or, in regression, numbers."""
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    """Empty where the data has no test part."""
    skipped: tuple[dict[str, str], ...] = ()
    """Unreadable files left out on request: path and reason of each."""
    task: TaskKind = TaskKind.single_label

    @property
    def labels(self) -> Labels:
        """What their labels are."""
        return LABELS[self.task]

    def part(self, name: str) -> tuple[Sample, ...]:
        assert name in PARTS, name
        return getattr(self, name)

    def labels_of(self, part: str) -> list[Label]:
        return [sample.label for sample in self.part(part)]

    def evaluated(self, part: str, *, crossed: bool) -> tuple[Sample, ...]:
        """The images that a part's figures are of, in the order of their indices.

        Args:
            crossed: every image outside the test part was judged by a head that was solved without its fold.
        """
        return (*self.train, *self.val) if crossed and part == "val" else self.part(part)

    def counts(self, part: str) -> tuple[int, ...]:
        """Images of each class, in the order of `classes`; in regression nothing is counted."""
        return counts([self.labels.shows(label) for label in self.labels_of(part)], len(self.classes))

    def division(self) -> str:
        """A short hash of which image, by name and content, is in which part under which label.

        The same where the whole folder has moved, or files were written again as they were.
        """
        samples = [(part, sample) for part in PARTS for sample in self.part(part)]
        root = os.path.commonpath([os.path.dirname(sample.path) for _, sample in samples])
        lines = ((part, os.path.relpath(s.path, root), s.label, s.target, s.content) for part, s in samples)
        return digest([self.classes, *lines])[:12]

    def summary(self) -> dict[str, Any]:
        """For the plan and the report: images of each class in each part, or their numbers, and what was left out."""
        return {
            "classes": list(self.classes),
            **self.labels.summary({part: self.labels_of(part) for part in PARTS}, self.classes),
            "skipped": list(self.skipped),
        }


@dataclass(slots=True)
class ListedImage:
    """A line of a source's listing: an image that should exist, not looked at yet."""

    path: str
    name: str
    """By which it is drawn into a carved part: stays the same when the folder moves."""
    label: Label
    part: str = "train"
    target: tuple[float, ...] | None = None
    stratum: Hashable = None
    """Carved parts hold the same share of each; by default what the task makes of the label."""
    group: str = ""
    """As a sample's."""
    fold: int | None = None
    """As a sample's."""


@dataclass(slots=True, kw_only=True)
class Listing:
    """What a source (folder, table, package) says it has."""

    key: str
    """The config key that led here, named in faults."""
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    """Of a table, by which images can be grouped."""
    entries: list[ListedImage] = field(default_factory=list)
    stray: list[tuple[str, str]] = field(default_factory=list)
    """Images that cannot be used where they lie: path and reason."""
    faults: list[Fault] = field(default_factory=list)
    test: tuple[float, int] | None = None
    """Share and seed of the test part that every run carves off, whatever its options; None: as they say."""


def digest(value: object) -> str:
    """A short stable hash of plain values."""
    return hashlib.blake2b(repr(value).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
