"""Tables for a terminal: as wide as it is, or as they need to be where the output goes elsewhere; or as text."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TextIO

UNBOUND = 10_000


def print_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = (), file: TextIO | None = None
) -> None:
    """Prints a table; cells that do not fit are folded, never cut.

    Args:
        numbers: headers of the columns that stand to the right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    to = file or sys.stdout
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for header in headers:
        table.add_column(header, justify="right" if header in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    free = not to.isatty() and "COLUMNS" not in os.environ
    Console(file=to, width=UNBOUND if free else None, highlight=False).print(table)


def aligned(rows: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Lines of text, each cell as wide as its column.

    Args:
        right: places of the columns, counted from 0, whose cells stand to the right.
    """
    cells = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def shape_text(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"
