"""Images that show the same picture: in two parts a figure measures memory, under two labels one of them is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from typing import NamedTuple

from graft.config.choices import Acceptance
from graft.config.faults import InputError
from graft.data.table import PARTS, Sample, Table
from graft.system.files import write_text
from graft.system.processes import is_first
from graft.system.tables import csv_text

FILE = "copies.csv"
SHOWN = 3
DUPLICATES: Acceptance = "duplicates"
CONTRADICTIONS: Acceptance = "contradictions"


class Copy(NamedTuple):
    """One of several images that show the same."""

    part: str
    sample: Sample

    @property
    def meaning(self) -> Hashable:
        """What must be equal where the picture is."""
        return self.sample.label, self.sample.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Every picture that more than one image of a table shows, with these images; numbers are of pairs of them."""

    pictures: tuple[tuple[Copy, ...], ...]
    duplicates: int
    """Of two parts."""
    contradictions: int
    """Under two labels, in one part or in two."""
    within: int
    """Of one part."""

    def record(self, accept: Sequence[Acceptance]) -> dict[str, object]:
        """For plan.json and the model's record."""
        numbers = {DUPLICATES: self.duplicates, CONTRADICTIONS: self.contradictions, "within_parts": self.within}
        return {**numbers, "accepted": sorted(accept)}

    def described(self, accept: Sequence[Acceptance]) -> list[str]:
        """For the plan: what there is, and what was accepted for nothing."""
        lines = [
            f"{_pairs(number)} {what}"
            for number, what in (
                (self.duplicates, "in two parts, accepted: figures of the later part measure memory too"),
                (self.contradictions, "under two labels, accepted"),
                (self.within, "within one part"),
            )
            if number
        ]
        if self.pictures:
            lines.append(f"all are listed in {FILE}")
        for name, number in ((DUPLICATES, self.duplicates), (CONTRADICTIONS, self.contradictions)):
            if name in accept and not number:
                lines.append(f"data.accept=[{name}] has no effect: there are none")
        return lines


def find_copies(table: Table) -> Copies:
    """Every set of images that show the same, pixel for pixel, in the table's order."""
    shown: defaultdict[str, list[Copy]] = defaultdict(list)
    for part in PARTS:
        for sample in table.part(part):
            shown[sample.picture or sample.path].append(Copy(part, sample))
    pictures = tuple(tuple(copies) for copies in shown.values() if len(copies) > 1)
    within = sum(_equal_pairs(copy.part for copy in copies) for copies in pictures)
    agreeing = sum(_equal_pairs(copy.meaning for copy in copies) for copies in pictures)
    pairs = sum(_pairs_of(len(copies)) for copies in pictures)
    return Copies(pictures=pictures, duplicates=pairs - within, contradictions=pairs - agreeing, within=within)


def check_copies(table: Table, accept: Sequence[Acceptance], folder: Path | None = None) -> None:
    """Lists the copies in the folder's copies.csv, where there are any.

    Args:
        accept: what may be there.
        folder: a run's.

    Raises:
        InputError: an image stands in two parts or under two labels, and that is not accepted.
    """
    copies = find_copies(table)
    if folder is not None and is_first():
        _write(copies, table, folder / FILE)
    refused: dict[str, str] = {}
    if copies.duplicates and DUPLICATES not in accept:
        pairs = _first_pairs(copies, table, lambda copy: copy.part)
        refused[DUPLICATES] = f"{_pairs(copies.duplicates)} in two parts ({pairs})"
    if copies.contradictions and CONTRADICTIONS not in accept:
        pairs = _first_pairs(copies, table, lambda copy: copy.meaning)
        refused[CONTRADICTIONS] = f"{_pairs(copies.contradictions)} under two labels ({pairs})"
    if not refused:
        return
    accepted = ",".join(sorted({*accept, *refused}))
    where = f"all are listed in {folder / FILE}" if folder else "training with mode=plan lists all"
    raise InputError(
        f"data: expected each image in one part and under one label, received {' and '.join(refused.values())} "
        f"({where}); try removing one image of each pair, or data.accept=[{accepted}] to go on with them"
    )


def _first_pairs(copies: Copies, table: Table, value: Callable[[Copy], Hashable]) -> str:
    """Of those pairs whose values differ."""
    differing = (
        pair for members in copies.pictures for pair in combinations(members, 2) if value(pair[0]) != value(pair[1])
    )
    shown = list(islice(differing, SHOWN + 1))
    pairs = [" = ".join(f"{copy.sample.path} ({copy.part}, {_label(copy, table)})" for copy in pair) for pair in shown]
    return "; ".join([*pairs[:SHOWN], *(["…"] if len(pairs) > SHOWN else [])])


def _write(copies: Copies, table: Table, path: Path) -> None:
    """A row an image; those of one picture have one number, and any two of them are a pair."""
    if not copies.pictures:
        path.unlink(missing_ok=True)  # of an earlier command in this folder
        return
    rows = [
        (number, copy.part, _label(copy, table), copy.sample.path)
        for number, members in enumerate(copies.pictures)
        for copy in members
    ]
    write_text(path, csv_text([("picture", "part", "label", "path"), *rows]))


def _label(copy: Copy, table: Table) -> str:
    return table.labels.words(copy.sample.label, table.classes)


def _pairs(number: int) -> str:
    return f"{number:,} pair{'s' * (number != 1)} of the same image"


def _pairs_of(number: int) -> int:
    return number * (number - 1) // 2


def _equal_pairs(values: Iterable[Hashable]) -> int:
    return sum(map(_pairs_of, Counter(values).values()))
