"""A table of images: a CSV file with the columns path, label (or numbers) and, if the parts are fixed, split."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from graft.config.choices import TaskKind
from graft.config.faults import Fault, nearest
from graft.config.schema_images import DataConfig
from graft.data.folder import missing_path
from graft.data.table import PARTS, ListedImage, Listing
from graft.tasks.labels import LABELS, LINE

KEY = "data.root"
SHOWN = 10


def list_csv(data: DataConfig) -> Listing:
    """Lists the rows of a CSV file in UTF-8 with a header. Faults are collected in the listing.

    Paths are relative to the file's folder. The classes are the distinct labels, in numerical order if all are
    integers, else in alphabetical order.
    """
    listing = Listing(key=KEY)
    table = _table(data, listing)
    if table is None:
        return listing
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            return list_rows(csv.DictReader(file), table.parent, data, listing)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        listing.faults.append(
            Fault(key=KEY, expected="a CSV file in UTF-8", received=f"{table} ({error})", remedy="saving it as UTF-8")
        )
        return listing


def list_rows(reader: csv.DictReader[str], folder: Path, data: DataConfig, listing: Listing) -> Listing:
    """Adds an entry for each row to the listing, and returns it. Paths are relative to the folder."""
    listing.folder = str(folder)
    rows = _rows(reader, data, listing)
    listing.classes, labels, faults = LABELS[data.task].read(rows, data)
    listing.faults.extend(faults)
    for row, label in zip(rows, labels, strict=True):
        path = os.path.abspath(os.path.join(folder, os.path.expanduser(row["path"])))
        part, group = row.get("split", "train"), row.get(data.group or "", "")
        listing.entries.append(ListedImage(path, row["path"], label, part, group=group))
    return listing


def _table(data: DataConfig, listing: Listing) -> Path | None:
    if data.root is None:
        fault = Fault(key=KEY, expected="a CSV file", received="nothing", remedy="data.root=FILE.csv")
        listing.faults.append(fault)
        return None
    table = Path(os.path.abspath(os.path.expanduser(data.root)))
    if not table.exists():
        listing.faults.append(missing_path(KEY, table, "a CSV file"))
        return None
    if table.is_dir():
        tables = ", ".join(f"{KEY}={path}" for path in sorted(table.glob("*.csv"))[:3])
        remedy = tables or f"data=folder {KEY}={table}"
        listing.faults.append(Fault(key=KEY, expected="a CSV file", received=f"the folder {table}", remedy=remedy))
        return None
    return table


def _rows(reader: csv.DictReader[str], data: DataConfig, listing: Listing) -> list[dict[str, str]]:
    labels = LABELS[data.task]
    required = ("path", *labels.columns(data))
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    missing = [name for name in required if name not in columns]
    if missing:
        listing.faults.append(_lacking(required, columns, data))
        return []
    listing.columns = tuple(columns)
    further = [name for name in ("split", data.group) if name in columns and name not in required]
    wanted = (*required, *dict.fromkeys(further))
    needed = ("path", *wanted[len(required) :]) if labels.may_be_empty else wanted
    rows: list[dict[str, str]] = []
    broken: list[str] = []
    for row in _stripped(reader, wanted):
        split = row.get("split", "train")
        empty = [name for name in needed if not row[name]]
        if empty:
            broken.append(f"line {row[LINE]} without {' and '.join(empty)}")
        elif split not in PARTS:
            near = nearest(split, PARTS, 1)
            broken.append(f"line {row[LINE]} with split {split}" + (f" (perhaps {near[0]})" if near else ""))
        else:
            rows.append(row)
    if broken:
        more = f" and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        expected = f"a value for {', '.join(needed)} in every line, split being {', '.join(PARTS)}"
        listing.faults.append(Fault(key=KEY, expected=expected, received=", ".join(broken[:SHOWN]) + more))
    elif not rows:
        listing.faults.append(Fault(key=KEY, expected="a line for every image", received="a header and no line"))
    return rows


def _lacking(required: Sequence[str], columns: Sequence[str], data: DataConfig) -> Fault:
    """The fault of a table that lacks a column of the task."""
    mark = next((mark for mark in (";", "\t") if any(mark in name for name in columns)), None)
    header = ",".join(required)
    remedy = f"commas in place of {mark!r}" if mark else f"a header {header} or {header},split"
    if data.task is TaskKind.regression and not mark:
        remedy = f"data.columns=[NAME,…] with names of {', '.join(columns)}" if columns else remedy
    return Fault(
        key=KEY,
        expected=f"the columns {', '.join(required)} and perhaps split",
        received=f"the columns {', '.join(columns) or 'none (the file is empty)'}",
        remedy=remedy,
    )


def _stripped(reader: csv.DictReader[str], wanted: tuple[str, ...]) -> Iterator[dict[str, str]]:
    for row in reader:
        yield {**{name: (row.get(name) or "").strip() for name in wanted}, LINE: str(reader.line_num)}


def check_labels(data: DataConfig, listing: Listing) -> Iterator[Fault]:
    """A fault for each part with labels that train lacks, because they cannot be learned."""
    shows = LABELS[data.task].shows
    places = {
        part: {place for entry in listing.entries if entry.part == part for place in shows(entry.label)}
        for part in PARTS
    }
    trained = places["train"]
    for part in ("val", "test"):
        unseen = sorted(places[part] - trained)
        if unseen:
            yield Fault(
                key=KEY,
                expected=f"every label of split {part} in split train too "
                f"({', '.join(listing.classes[label] for label in sorted(trained)[:SHOWN]) or 'which is empty'})",
                received=", ".join(listing.classes[label] for label in unseen[:SHOWN]),
            )
