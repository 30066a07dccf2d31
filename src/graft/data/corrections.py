"""The user's corrections of the data, as a run records them: images left out, and labels corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from graft.system.files import write_text
from graft.system.tables import csv_text

FILE = "corrections.csv"


class Change(NamedTuple):
    """The correction of one image."""

    path: str
    before: str
    """Its label in the data."""
    after: str
    """Its corrected label; empty if the image is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionFile:
    """The file of data.exclude or data.relabel."""

    file: str
    sha256: str
    images: int
    """Images that it leaves out or whose label it changes."""
    unchanged: int = 0
    """Images that already have the label that it gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrections:
    """What both files did to a table; nothing where neither is given."""

    exclude: CorrectionFile | None = None
    relabel: CorrectionFile | None = None
    dropped: tuple[str, ...] = ()
    """Classes of which no image is left."""
    changes: tuple[Change, ...] = ()

    def record(self) -> dict[str, Any] | None:
        """For plan.json and the model's record."""
        if not self.exclude and not self.relabel:
            return None
        return {
            "exclude": asdict(self.exclude) if self.exclude else None,
            "relabel": asdict(self.relabel) if self.relabel else None,
            "dropped_classes": list(self.dropped),
        }

    def described(self) -> list[str]:
        """For the plan."""
        return in_words(self.record())

    def write(self, folder: Path) -> None:
        """A row an image, in the folder's corrections.csv."""
        path = folder / FILE
        if self.changes:
            write_text(path, csv_text([("path", "before", "after"), *self.changes]))
        else:
            path.unlink(missing_ok=True)  # of an earlier command in this folder


def in_words(record: dict[str, Any] | None) -> list[str]:
    """A phrase for each file of the record, and for the classes that are gone."""
    if not record:
        return []
    phrases: list[str] = []
    if exclude := record["exclude"]:
        phrases.append(f"{_images(exclude['images'])} left out by {_file(exclude)}")
    if relabel := record["relabel"]:
        same = f", {relabel['unchanged']:,} already as it says" if relabel["unchanged"] else ""
        phrases.append(f"{_images(relabel['images'])} relabelled by {_file(relabel)}{same}")
    if record["dropped_classes"]:
        phrases.append(f"no image is left of {_listed(record['dropped_classes'])}, which is no class any more")
    return phrases


def _images(number: int) -> str:
    return f"{number:,} image{'s' * (number != 1)}"


def _file(record: dict[str, Any]) -> str:
    return f"{record['file']} (SHA-256 {record['sha256'][:12]})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
