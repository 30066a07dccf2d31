"""Tables for a terminal, as wide as the terminal; for other outputs as wide as necessary, or as plain text."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TextIO

from graft.system.terminal import printable

UNBOUND = 10_000


def print_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = (), file: TextIO | None = None
) -> None:
    """Prints a table. Cells that do not fit are wrapped, never truncated.

    Args:
        numbers: headers of the right-aligned columns.
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
        table.add_row(*(Text(printable(cell)) for cell in row))
    free = not to.isatty() and "COLUMNS" not in os.environ
    Console(file=to, width=UNBOUND if free else None, highlight=False).print(table)


def aligned(rows: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Lines of text in which each cell is as wide as its column.

    Args:
        right: indices of the right-aligned columns.
    """
    cells = [tuple(map(printable, row)) for row in rows]
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
