"""What the files that correct the data must be: rules of rules.py's kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.config.faults import Fault
from graft.config.rules_results import header_of

Values = Mapping[str, Any]

COLUMN = "path"
"""The column of both files that names images."""


def without_paths(key: str, file: str, columns: Sequence[str]) -> Fault:
    """The fault of a file without that column."""
    received = f"{file} with the columns {', '.join(columns) or 'none (the file is empty)'}"
    remedy = f"{COLUMN} in its first line, as in the file that graft audit --csv writes"
    return Fault(key=key, expected=f"a CSV file with the column {COLUMN}", received=received, remedy=remedy)


def _corrections_exist(values: Values) -> Iterator[Fault]:
    for key in ("data.exclude", "data.relabel"):
        file = values[key]
        if file is None:
            continue
        place = Path(file).expanduser()
        if not place.is_file():
            where = "" if place.is_absolute() else f" below {Path.cwd()}"
            received = f"the folder {file}" if place.is_dir() else f"{file}, which does not exist{where}"
            yield Fault(key=key, expected="a CSV file that exists", received=received, remedy=f"{key}=FILE.csv")
        elif (columns := header_of(file)) and COLUMN not in columns:
            yield without_paths(key, file, columns)


DATA_RULES: tuple[tuple[tuple[str, ...], Callable[[Values], Iterator[Fault]]], ...] = (
    (("data.exclude", "data.relabel"), _corrections_exist),
)
