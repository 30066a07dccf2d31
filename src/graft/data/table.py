"""The samples of each part, and the listing of a source that they are made from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from graft.config.choices import TaskKind
from graft.config.faults import Fault
from graft.data.corrections import Corrections
from graft.tasks.labels import LABELS, Label, Labels, counts

PARTS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its label."""

    path: str
    label: Label
    """The truth for metrics."""
    target: tuple[float, ...] | None = None
    """The probability of each class as the target of training, with data.targets=soft."""
    content: str = ""
    """A hash of the file's bytes, which identifies the image independently of its path and time stamps."""
    picture: str = ""
    """Equal for two samples of the table if and only if they show the same picture, pixel for pixel."""
    group: str = ""
    """The group by data.group; empty without groups. All images of a group are in the same part."""
    fold: int | None = None
    """The fold by data.folds; None without folds, and for images of the test part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The samples of each part."""

    classes: tuple[str, ...]
    """Names of the network's outputs: classes, labels or, in regression, numbers."""
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    """Empty if the data has no test part."""
    skipped: tuple[dict[str, str], ...] = ()
    """The path and the reason of each unreadable file that was left out (data.on_error=skip)."""
    corrections: Corrections = field(default_factory=Corrections)
    """Images left out and labels corrected by data.exclude and data.relabel."""
    task: TaskKind = TaskKind.single_label

    @property
    def labels(self) -> Labels:
        """The task's operations on labels."""
        return LABELS[self.task]

    def part(self, name: str) -> tuple[Sample, ...]:
        assert name in PARTS, name
        return getattr(self, name)

    def labels_of(self, part: str) -> list[Label]:
        return [sample.label for sample in self.part(part)]

    def evaluated(self, part: str, *, crossed: bool) -> tuple[Sample, ...]:
        """The images that a part's figures are computed on, in the order of their indices.

        Args:
            crossed: whether all images outside the test part were predicted by cross-validation. They then count as
                val.
        """
        return (*self.train, *self.val) if crossed and part == "val" else self.part(part)

    def counts(self, part: str) -> tuple[int, ...]:
        """The number of images of each class, in the order of `classes`; zeros in regression."""
        return counts([self.labels.shows(label) for label in self.labels_of(part)], len(self.classes))

    def division(self) -> str:
        """A short hash of the split: of the relative path, content, label and part of every image.

        It does not change if the whole folder moves or files are rewritten with the same content.
        """
        samples = [(part, sample) for part in PARTS for sample in self.part(part)]
        root = os.path.commonpath([os.path.dirname(sample.path) for _, sample in samples])
        lines = ((part, os.path.relpath(s.path, root), s.label, s.target, s.content) for part, s in samples)
        return digest([self.classes, *lines])[:12]

    def summary(self) -> dict[str, Any]:
        """For the plan and the report: the classes, images per class (or statistics of numbers), and skipped files."""
        return {
            "classes": list(self.classes),
            **self.labels.summary({part: self.labels_of(part) for part in PARTS}, self.classes),
            "skipped": list(self.skipped),
            "corrections": self.corrections.record(),
        }


@dataclass(slots=True)
class ListedImage:
    """An image in a source's listing. It has not been checked yet."""

    path: str
    name: str
    """The name by which it is assigned to a part. It does not change if the folder moves."""
    label: Label
    part: str = "train"
    target: tuple[float, ...] | None = None
    stratum: Hashable = None
    """Parts are stratified by this; None: by the label, in the task's way."""
    group: str = ""
    """See `Sample`."""
    fold: int | None = None
    """See `Sample`."""


@dataclass(slots=True, kw_only=True)
class Listing:
    """The images that a source (folder, table, package) lists, and its faults."""

    key: str
    """The config key of the source, for messages."""
    folder: str = ""
    """The folder that paths in data.exclude and data.relabel are relative to."""
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    """The columns of a table, by which images can be grouped."""
    entries: list[ListedImage] = field(default_factory=list)
    stray: list[tuple[str, str]] = field(default_factory=list)
    """The path and the reason of each image that is in a wrong place."""
    faults: list[Fault] = field(default_factory=list)
    test: tuple[float, int] | None = None
    """The fraction and the seed of a fixed test part, which overrides the config; None: there is none."""


def digest(value: object) -> str:
    """A short stable hash of plain values."""
    return hashlib.blake2b(repr(value).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
