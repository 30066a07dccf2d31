"""A run's folder as one self-contained page."""

from __future__ import annotations

from pathlib import Path

FILE = "report.html"


def write_report(folder: Path | str) -> Path:
    """Writes report.html into a run's folder, from the files there, and returns its path.

    Raises:
        InputError: no run's folder, or a damaged file in it.
        OSError: the folder cannot be written.
    """
    from graft.files import write_text
    from graft.results.record import read_run
    from graft.results.report.layout import lay_out

    path = Path(folder) / FILE
    write_text(path, lay_out(read_run(folder)))
    return path
