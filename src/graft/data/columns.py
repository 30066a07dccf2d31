"""Further columns of a CSV table, besides paths and labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path


def columns_of(root: str, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """The cells of these columns for each image.

    Args:
        root: path of a table that `csv_table.list_csv` has accepted.
        names: columns of the table.

    Returns:
        Absolute path of the image, as in the samples of `list_csv`, to column to cell.
    """
    table = Path(os.path.abspath(os.path.expanduser(root)))
    with open(table, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        return {
            os.path.abspath(os.path.join(table.parent, os.path.expanduser((row["path"] or "").strip()))): {
                name: (row[name] or "").strip() for name in names
            }
            for row in reader
        }
