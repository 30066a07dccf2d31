"""data=custom: images that the user's own function lists."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from graft.config.faults import InputError
from graft.config.import_path import OwnCode, call_object
from graft.config.schema_images import DataConfig
from graft.data.csv_table import list_rows
from graft.data.table import Listing
from graft.tasks.labels import LABELS

KEY = "data.target"


def list_own(data: DataConfig) -> Listing:
    """Lists the rows that the function returns, which have the same columns as the table of data=csv.

    Raises:
        InputError: the function cannot be imported or called, fails, or returns no rows.
    """
    path = str(data.target)
    result = call_object(KEY, path, **data.kwargs)
    with OwnCode(f"{KEY}: expected {path} to list the images"):
        rows = [_row(path, row, data) for row in _rows_of(path, result)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if "split" in columns:
        rows = [{"split": "train", **row} for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    folder = Path(os.path.abspath(os.path.expanduser(data.root or ".")))
    return list_rows(csv.DictReader(io.StringIO(text.getvalue())), folder, data, Listing(key=KEY))


def _rows_of(path: str, result: Any) -> Iterable[Any]:
    if hasattr(result, "to_dict") and hasattr(result, "columns"):  # a pandas DataFrame
        return result.to_dict("records")
    if isinstance(result, Iterable) and not isinstance(result, str | bytes | Mapping):
        return result
    raise _other(path, result)


def _row(path: str, row: Any, data: DataConfig) -> dict[str, str]:
    if isinstance(row, tuple | list):
        names = ("path", *LABELS[data.task].columns(data), "split")
        if not len(names) - 1 <= len(row) <= len(names):
            raise _other(path, row)
        row = dict(zip(names[: len(row)], row, strict=True))
    if not isinstance(row, Mapping):
        raise _other(path, row)
    return {str(name): "" if value is None else str(value) for name, value in row.items()}


def _other(path: str, received: Any) -> InputError:
    return InputError(
        f"{KEY}: expected {path} to return rows of path, label and perhaps split (mappings, tuples or a DataFrame), "
        f"received a {type(received).__name__} ({received!r:.80}); items that are not files, such as those of a "
        "torch Dataset, are not supported: try writing them to image files once"
    )
