"""The labels of each task: reading from a table's cells, counting, checking, and describing them.

Does not import torch, so that a wrong table is reported before.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from graft.config.choices import TaskKind
from graft.config.faults import Fault
from graft.config.schema_images import DataConfig

Label = int | tuple[float, ...]
"""single_label: the class's position. multi_label: 1 or 0 for each label. regression: the numbers."""
Row = Mapping[str, str]
"""A line of a table: its cells by column, and its number under LINE."""
LINE = ""  # no column is called that
SHOWN = 10
MARKS = ("|", ",")  # what else people put between names


class Labels(ABC):
    """The labels of one task."""

    may_be_empty = False
    """Whether a table's cell may be."""
    fewest = 1
    """Names that there must be."""

    def columns(self, data: DataConfig) -> tuple[str, ...]:
        """The table's columns from which the labels are read."""
        return ("label",)

    @abstractmethod
    def read(self, rows: Sequence[Row], data: DataConfig) -> tuple[tuple[str, ...], list[Label], list[Fault]]:
        """The names of classes, labels or numbers; one label per row; and all faults."""

    @abstractmethod
    def parse(self, row: Row, names: Sequence[str], data: DataConfig) -> Label | None:
        """The label in a row's cells, of a table whose names are known; None if it is not one of theirs."""

    @abstractmethod
    def shows(self, label: Label) -> tuple[int, ...]:
        """The positions of the classes of an image with this label."""

    def stratum(self, label: Label) -> Hashable:
        """The stratum for stratified splits; the same for all images if the task cannot be stratified."""
        return None

    def words(self, label: Label, names: Sequence[str]) -> str:
        return " and ".join(names[place] for place in self.shows(label)) or "no label"

    def summary(self, parts: Mapping[str, Sequence[Label]], names: Sequence[str]) -> dict[str, Any]:
        """How often each class occurs in each part, for the plan and the report."""
        counted = {part: counts([self.shows(label) for label in labels], len(names)) for part, labels in parts.items()}
        return {"parts": {part: dict(zip(names, numbers, strict=True)) for part, numbers in counted.items()}}

    @abstractmethod
    def check(self, parts: Mapping[str, Sequence[Label]], names: Sequence[str], key: str) -> list[Fault]:
        """Faults of labels that are divided into parts, including validation."""


class OneClass(Labels):
    fewest = 2

    def read(self, rows: Sequence[Row], data: DataConfig) -> tuple[tuple[str, ...], list[Label], list[Fault]]:
        names = _in_order({row["label"] for row in rows})
        place = {name: position for position, name in enumerate(names)}
        return names, [place[row["label"]] for row in rows], []

    def parse(self, row: Row, names: Sequence[str], data: DataConfig) -> Label | None:
        return names.index(row["label"]) if row["label"] in names else None

    def shows(self, label: Label) -> tuple[int, ...]:
        assert isinstance(label, int)
        return (label,)

    def stratum(self, label: Label) -> Hashable:
        return label

    def check(self, parts: Mapping[str, Sequence[Label]], names: Sequence[str], key: str) -> list[Fault]:
        return _lacking(self, parts, names, key)


class SeveralClasses(Labels):
    may_be_empty = True

    def read(self, rows: Sequence[Row], data: DataConfig) -> tuple[tuple[str, ...], list[Label], list[Fault]]:
        label_sets = [{name.strip() for name in row["label"].split(data.separator)} - {""} for row in rows]
        names = _in_order(set[str]().union(*label_sets))
        labels: list[Label] = [tuple(float(name in each) for name in names) for each in label_sets]
        if rows and not names:
            fault = Fault(key="data.root", expected="a label for some image", received="an empty column label")
            return names, labels, [fault]
        return names, labels, _other_mark(rows, data)

    def parse(self, row: Row, names: Sequence[str], data: DataConfig) -> Label | None:
        shown = {name.strip() for name in row["label"].split(data.separator)} - {""}
        return tuple(float(name in shown) for name in names) if shown <= set(names) else None

    def shows(self, label: Label) -> tuple[int, ...]:
        assert isinstance(label, tuple)
        return tuple(place for place, share in enumerate(label) if share)

    def summary(self, parts: Mapping[str, Sequence[Label]], names: Sequence[str]) -> dict[str, Any]:
        """Also includes the number of images of each part, because the labels' counts do not add up to it."""
        return {**super().summary(parts, names), "images": {part: len(labels) for part, labels in parts.items()}}

    def check(self, parts: Mapping[str, Sequence[Label]], names: Sequence[str], key: str) -> list[Fault]:
        faults = _lacking(self, parts, names, key)
        for part, labels in parts.items():
            if labels and len(set(labels)) == 1:
                received = f"{self.words(labels[0], names)} for each image"
                faults.append(Fault(key=key, expected=f"labels that differ in {part}", received=received))
        return faults


class Numbers(Labels):
    def columns(self, data: DataConfig) -> tuple[str, ...]:
        return tuple(data.columns) or ("label",)

    def read(self, rows: Sequence[Row], data: DataConfig) -> tuple[tuple[str, ...], list[Label], list[Fault]]:
        names = self.columns(data)
        labels: list[Label] = [tuple(_number(row[name]) for name in names) for row in rows]
        broken = [
            f"line {row[LINE]} with {name} {row[name]}"
            for row in rows
            for name in names
            if not math.isfinite(_number(row[name]))
        ]
        if not broken:
            return names, labels, []
        more = f" and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        expected = f"finite numbers in {', '.join(names)} with data.task=regression"
        return names, labels, [Fault(key="data.root", expected=expected, received=", ".join(broken[:SHOWN]) + more)]

    def parse(self, row: Row, names: Sequence[str], data: DataConfig) -> Label | None:
        numbers = tuple(_number(row[name]) for name in self.columns(data))
        return numbers if all(map(math.isfinite, numbers)) else None

    def shows(self, label: Label) -> tuple[int, ...]:
        return ()

    def words(self, label: Label, names: Sequence[str]) -> str:
        assert isinstance(label, tuple)
        return ", ".join(f"{name} {value:g}" for name, value in zip(names, label, strict=True))

    def summary(self, parts: Mapping[str, Sequence[Label]], names: Sequence[str]) -> dict[str, Any]:
        return {
            "images": {part: len(labels) for part, labels in parts.items()},
            "values": {
                part: {name: _spread(column) for name, column in zip(names, _columns(labels), strict=True)}
                for part, labels in parts.items()
                if labels
            },
        }

    def check(self, parts: Mapping[str, Sequence[Label]], names: Sequence[str], key: str) -> list[Fault]:
        faults = [
            Fault(key=key, expected=f"values of {name} that differ in {part}", received=f"{column[0]:g} for each image")
            for part, labels in parts.items()
            if labels
            for name, column in zip(names, _columns(labels), strict=True)
            if len(set(column)) == 1
        ]
        if not parts["train"]:
            faults.append(Fault(key=key, expected="images to train on", received="none"))
        return faults


LABELS: dict[TaskKind, Labels] = {
    TaskKind.single_label: OneClass(),
    TaskKind.multi_label: SeveralClasses(),
    TaskKind.regression: Numbers(),
}


def counts(shown: Sequence[tuple[int, ...]], classes: int) -> tuple[int, ...]:
    """The number of images of each class."""
    counted = [0] * classes
    for places in shown:
        for place in places:
            counted[place] += 1
    return tuple(counted)


def _lacking(labels: Labels, parts: Mapping[str, Sequence[Label]], names: Sequence[str], key: str) -> list[Fault]:
    """Classes without any training image, which cannot be learnt."""
    trained = counts([labels.shows(label) for label in parts["train"]], len(names))
    lacking = [name for name, number in zip(names, trained, strict=True) if not number]
    if not lacking:
        return []
    return [
        Fault(
            key=key,
            expected="an image of every class to train on",
            received=f"none of {', '.join(lacking[:SHOWN])}",
            remedy="a smaller data.val_fraction or data.test_fraction, or more images",
        )
    ]


def _in_order(names: set[str]) -> tuple[str, ...]:
    """In numerical order if all are whole numbers, otherwise in alphabetical order."""
    whole = all(name.isascii() and name.lstrip("-").isdigit() for name in names)
    return tuple(sorted(names, key=(lambda name: (int(name), name)) if whole else None))


def _other_mark(rows: Sequence[Row], data: DataConfig) -> list[Fault]:
    """Cells with another separator, whose joined names would become labels of their own."""
    cells = [row["label"] for row in rows]
    if any(data.separator in cell for cell in cells):
        return []
    for mark in MARKS:
        for row in rows:
            if mark in row["label"]:
                received = f"{data.separator!r}, which is in no cell, and line {row[LINE]} with {row['label']}"
                remedy = f"'data.separator=\"{mark}\"'"
                expected = "what stands between two names"
                return [Fault(key="data.separator", expected=expected, received=received, remedy=remedy)]
    return []


def _number(cell: str) -> float:
    """The number in a cell; NaN if it is not a number."""
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _columns(labels: Sequence[Label]) -> list[tuple[float, ...]]:
    return list(zip(*(label for label in labels if isinstance(label, tuple)), strict=True))


def _spread(column: Sequence[float]) -> dict[str, float]:
    return {"mean": fmean(column), "std": pstdev(column), "lowest": min(column), "highest": max(column)}
