"""Applies the files of data.exclude and data.relabel to a listing: CSV files with a column path."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.config.choices import TaskKind
from graft.config.faults import Fault, nearest
from graft.config.rules_data import COLUMN as PATH
from graft.config.rules_data import without_paths
from graft.config.schema_images import DataConfig
from graft.data.corrections import Change, CorrectionFile, Corrections
from graft.data.table import ListedImage, Listing
from graft.system.tables import plain_text
from graft.tasks.labels import LABELS, LINE, Label, Row

EXCLUDE, RELABEL = "data.exclude", "data.relabel"
PROPOSAL, MARGIN = "proposal", "margin"
SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """The rows of one file."""

    file: str
    sha256: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]


def correct(listing: Listing, data: DataConfig) -> tuple[Corrections, list[Fault]]:
    """Removes entries from the listing and changes the labels of others, as the files say.

    Paths are absolute or relative to the data's folder. An entry that matches no image is a fault.
    """
    if (data.exclude is None and data.relabel is None) or listing.faults:
        return Corrections(), []
    faults: list[Fault] = []
    excluded, relabelled = _read(EXCLUDE, data.exclude, faults), _read(RELABEL, data.relabel, faults)
    entries: dict[str, list[ListedImage]] = defaultdict(list)
    for entry in listing.entries:
        entries[entry.path].append(entry)
    labels_before = {entry.label for entry in listing.entries}
    labels = _new_labels(relabelled, listing, data, entries, faults) if relabelled else {}
    out = _paths_of(EXCLUDE, excluded, listing, {*entries, *(path for path, _ in listing.stray)}, faults)
    if both := [path for path in out if path in labels]:
        faults.append(Fault(key=RELABEL, expected=f"no image that {EXCLUDE} leaves out", received=_shown(both)))
    if faults:
        return Corrections(), faults
    changes, unchanged = _apply(listing, data, labels, set(out))
    return Corrections(
        exclude=excluded and CorrectionFile(file=excluded.file, sha256=excluded.sha256, images=len(out)),
        relabel=relabelled
        and CorrectionFile(
            file=relabelled.file, sha256=relabelled.sha256, images=len(labels) - unchanged, unchanged=unchanged
        ),
        dropped=_drop_classes(listing, labels_before) if data.task is TaskKind.single_label else (),
        changes=tuple(changes),
    ), []


def _read(key: str, file: str | None, faults: list[Fault]) -> _Rows | None:
    if file is None:
        return None
    try:
        content = Path(file).expanduser().read_bytes()
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = tuple(
            {LINE: str(reader.line_num), **{name: (row.get(name) or "").strip() for name in columns}} for row in reader
        )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        faults.append(Fault(key=key, expected="a CSV file in UTF-8", received=f"{file} ({error})"))
        return None
    if PATH not in columns:
        faults.append(without_paths(key, file, columns))
        return None
    return _Rows(file=file, sha256=hashlib.sha256(content).hexdigest(), columns=tuple(columns), rows=rows)


def _paths_of(key: str, rows: _Rows | None, listing: Listing, present: set[str], faults: list[Fault]) -> list[str]:
    """The path of each row, as the listing has it; each once."""
    paths = [_path_of(row, listing, present) for row in rows.rows] if rows else []
    unknown = [place for place, path in enumerate(paths) if path not in present]
    if rows and unknown:
        near = nearest(paths[unknown[0]], present, 1) if len(present) < 2000 else []
        shown = _shown([f"{rows.rows[place][PATH]} (line {rows.rows[place][LINE]})" for place in unknown])
        faults.append(
            Fault(
                key=key,
                expected=f"paths of images, absolute or relative to {listing.folder}",
                received=f"{len(unknown):,} that {'are' if len(unknown) > 1 else 'is'} none: {shown}",
                remedy=near[0] if near else "the paths that graft audit --csv writes",
            )
        )
    return list(dict.fromkeys(paths))


def _path_of(row: Row, listing: Listing, present: set[str]) -> str:
    paths = [
        os.path.abspath(os.path.join(listing.folder, os.path.expanduser(cell)))
        for cell in (row[PATH], plain_text(row[PATH]))
    ]
    return next((path for path in paths if path in present), paths[-1])


def _new_labels(
    rows: _Rows, listing: Listing, data: DataConfig, present: dict[str, list[ListedImage]], faults: list[Fault]
) -> dict[str, Label]:
    """The label that the file gives to each of its images: the column proposal of graft audit's file, or else label."""
    columns = (PROPOSAL,) if PROPOSAL in rows.columns else LABELS[data.task].columns(data)
    if missing := [name for name in columns if name not in rows.columns]:
        received = f"{rows.file} with the columns {', '.join(rows.columns)}"
        faults.append(Fault(key=RELABEL, expected=f"the columns {', '.join(missing)}", received=received))
        return {}
    count = len(faults)
    paths = _paths_of(RELABEL, rows, listing, set(present), faults)
    faults.extend(_doubtless(rows))
    if len(faults) > count:
        return {}
    labels: dict[str, Label] = {}
    wrong: list[str] = []
    twice: list[str] = []
    for row in rows.rows:
        label = _label(row, columns, listing.classes, data)
        path = _path_of(row, listing, set(paths))
        if label is None:
            wrong.append(f"line {row[LINE]} with {', '.join(row[name] for name in columns) or 'nothing'}")
        elif labels.setdefault(path, label) != label:
            twice.append(path)
    if wrong:
        expected = f"labels of the data ({_shown(listing.classes)})" if listing.classes else "numbers"
        faults.append(Fault(key=RELABEL, expected=expected, received=_shown(wrong)))
    if twice:
        faults.append(Fault(key=RELABEL, expected="one label an image", received=f"two for {_shown(twice)}"))
    return labels


def _label(row: Row, columns: Sequence[str], names: Sequence[str], data: DataConfig) -> Label | None:
    cells = {name: plain_text(row[name]) for name in columns}
    if columns == (PROPOSAL,):
        cells = {"label": cells[PROPOSAL]}
    return LABELS[data.task].parse(cells, names, data)


def _doubtless(rows: _Rows) -> Iterator[Fault]:
    """The fault of graft audit's whole file, which has a proposal for right labels too: the second best."""
    if PROPOSAL not in rows.columns or MARGIN not in rows.columns:
        return
    right = [f"{row[PATH]} (margin {row[MARGIN]})" for row in rows.rows if not _is_above_zero(row[MARGIN])]
    if right:
        yield Fault(
            key=RELABEL,
            expected="images with a margin above 0: below it, the proposal is less likely than the label",
            received=f"{len(right):,} others: {_shown(right)}",
            remedy=f"a file with the rows that are wrong alone, or without the column {MARGIN} if each was looked at",
        )


def _is_above_zero(cell: str) -> bool:
    try:
        return float(cell) > 0
    except ValueError:
        return False


def _apply(listing: Listing, data: DataConfig, labels: dict[str, Label], out: set[str]) -> tuple[list[Change], int]:
    """The changes made, and the number of images that had the label already."""
    words = LABELS[data.task].words
    changes: list[Change] = []
    unchanged = 0
    for entry in listing.entries:
        before = words(entry.label, listing.classes)
        if entry.path in out:
            changes.append(Change(entry.path, before, ""))
        elif entry.path in labels:
            if entry.label == labels[entry.path]:
                unchanged += 1
                continue
            entry.label = labels[entry.path]
            if entry.target is not None:
                entry.target = tuple(float(place == entry.label) for place in range(len(listing.classes)))
            changes.append(Change(entry.path, before, words(entry.label, listing.classes)))
    changes += [Change(path, "", "") for path, _ in listing.stray if path in out]
    listing.entries = [entry for entry in listing.entries if entry.path not in out]
    listing.stray = [(path, reason) for path, reason in listing.stray if path not in out]
    return changes, unchanged


def _drop_classes(listing: Listing, before: set[Label]) -> tuple[str, ...]:
    """Removes the classes whose last image was left out or relabelled, and returns their names."""
    gone = before - {entry.label for entry in listing.entries}
    if not gone or any(entry.target is not None for entry in listing.entries):
        return ()
    left = [place for place in range(len(listing.classes)) if place not in gone]
    place_of: dict[Label, int] = {old: new for new, old in enumerate(left)}
    for entry in listing.entries:
        entry.label = place_of[entry.label]
    dropped = tuple(name for place, name in enumerate(listing.classes) if place in gone)
    listing.classes = tuple(listing.classes[place] for place in left)
    return dropped


def _shown(items: Sequence[str]) -> str:
    return ", ".join([*items[:SHOWN], *(["…"] if len(items) > SHOWN else [])])
