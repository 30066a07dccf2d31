"""Resolves the images that a user names: files, folders, globs, a CSV of paths, a list on standard input."""

from __future__ import annotations

import csv
import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from graft.config.faults import InputError
from graft.data.pixels import suffixes

STANDARD_INPUT = "-"


def image_paths(sources: Iterable[str], *, column: str = "path", stdin: TextIO | None = None) -> Iterator[str]:
    """The images that the sources name, in order. Those of a folder or a glob are sorted; those of a list keep their
    order.

    A plain path is returned even if there is no such file, so that it can be reported in its place.

    Args:
        column: column of the CSV that holds the paths, which may be relative to the CSV.
        stdin: where "-" reads one path per line from.

    Raises:
        InputError: a folder or glob has no image, or a CSV lacks the column.
    """
    for source in sources:
        path = Path(source).expanduser()
        if source == STANDARD_INPUT:
            yield from (line.rstrip("\r\n") for line in stdin or () if line.strip())
        elif path.is_dir():
            yield from _of_folder(path)
        elif path.suffix.lower() == ".csv":
            yield from _of_csv(path, column)
        elif glob.has_magic(source) and not path.exists():
            yield from _of_glob(str(path))
        else:
            yield str(path) if source.startswith("~") else source


def is_image(path: Path) -> bool:
    """Whether the file name has the extension of an image."""
    return path.suffix.lower() in suffixes() and path.is_file()


def _of_folder(folder: Path) -> list[str]:
    paths = sorted(str(path) for path in folder.rglob("*") if is_image(path))
    if not paths:
        raise InputError(f"{folder}: expected images ({' '.join(sorted(suffixes()))}), received a folder without any")
    return paths


def _of_glob(pattern: str) -> list[str]:
    paths = sorted(name for name in glob.glob(pattern, recursive=True) if Path(name).is_file())
    if not paths:
        raise InputError(f"{pattern}: expected a pattern that matches images, received one that matches nothing")
    return paths


def labels_in(sources: Iterable[str], *, column: str, label: str) -> dict[str, str]:
    """The label of each image that a CSV among the sources lists, by its path.

    Raises:
        InputError: there is no CSV among the sources, or it lacks one of the columns.
    """
    tables = [Path(source) for source in sources if Path(source).suffix.lower() == ".csv"]
    if not tables:
        raise InputError(
            f"--label-column: expected a CSV with the columns {column} and {label}, received other paths; try leaving"
            " it out"
        )
    return {str(table.parent / name): answer for table in tables for name, answer in _cells(table, (column, label))}


def _of_csv(path: Path, column: str) -> Iterator[str]:
    return (str(path.parent / name) for (name,) in _cells(path, (column,)))


def _cells(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The cells of each row whose first cell is not empty."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            if absent := [column for column in columns if column not in names]:
                raise InputError(
                    f"{path}: expected a column {absent[0]!r}, received {', '.join(names) or 'an empty file'}; "
                    "try --column with the name of the column of paths"
                )
            yield from (tuple(row[column] or "" for column in columns) for row in reader if row[columns[0]])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected a readable CSV file, received {error}") from error
