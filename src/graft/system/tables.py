"""CSV for spreadsheets: text of other people's is never a formula, and has no control characters."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from graft.system.terminal import printable

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How cells begin that a spreadsheet computes."""
QUOTE = "'"
"""Before it, a spreadsheet shows a cell as text."""


def text_cell(text: str) -> str:
    """The text, with an apostrophe where a spreadsheet would take it for a formula.

    >>> text_cell("=1+1"), text_cell("cat")
    ("'=1+1", 'cat')
    """
    return printable(f"{QUOTE}{text}" if text.startswith((*FORMULA, QUOTE)) else text)


def plain_text(cell: str) -> str:
    """What `text_cell` was given.

    >>> plain_text("'=1+1"), plain_text("cat")
    ('=1+1', 'cat')
    """
    return cell[1:] if cell.startswith(QUOTE) and cell[1:].startswith((*FORMULA, QUOTE)) else cell


def row_cells(row: Iterable[Any]) -> list[Any]:
    """The row with its texts as `text_cell` makes them; numbers that are texts already stay numbers."""
    return [text_cell(cell) if isinstance(cell, str) and not _is_number(cell) else cell for cell in row]


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(row_cells, rows))
    return text.getvalue()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
