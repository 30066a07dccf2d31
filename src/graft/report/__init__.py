"""Renders a run's folder, or a comparison of several, as one self-contained HTML page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

FILE = "report.html"
COMPARISON = "comparison.html"


def write_report(folder: Path | str, out: Path | None = None) -> Path:
    """Writes report.html from the files in a run's folder, into that folder or to `out`, and returns its path.

    Raises:
        InputError: it is no run's folder, or one of its files is damaged.
        OSError: the folder cannot be written.
    """
    from graft.report.layout import lay_out
    from graft.report.record import read_run

    return write_page(out or Path(folder) / FILE, lay_out(read_run(folder)))


def write_comparison(folders: Sequence[Path | str], out: Path | None = None) -> Path:
    """Writes a page that compares several runs, by default into their common folder, and returns its path.

    Raises:
        InputError: one is no run's folder, is named twice, or has a damaged file.
        OSError: the folder cannot be written.
    """
    from graft.config.faults import InputError
    from graft.report.compare import lay_out_runs
    from graft.report.record import read_run

    paths = [Path(os.path.abspath(folder)) for folder in folders]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise InputError(f"graft report: expected each run once, received {twice} more than once; try it without one")
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return write_page(out or common / COMPARISON, lay_out_runs([read_run(path) for path in paths]))


def write_page(path: Path, page: str) -> Path:
    """Writes a page, creating the folders above it, and returns its path.

    Raises:
        InputError: the path is a folder.
    """
    from graft.config.faults import InputError
    from graft.system.files import write_text

    if path.is_dir():
        raise InputError(f"--out: expected a file, received the folder {path}; try --out {path / COMPARISON}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path
