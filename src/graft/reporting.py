"""`graft report FOLDER`: the page of a run, or of a sweep."""

from __future__ import annotations

import argparse
from pathlib import Path

from graft.files import write_text
from graft.results.report import write_report
from graft.sweep.paths import DESCRIPTION

SWEEP_FILE = "sweep.html"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="the folder of a run or of a sweep")


def run(args: argparse.Namespace) -> int:
    for folder in args.folders:
        is_sweep = (Path(folder) / DESCRIPTION).is_file()
        print(write_study_page(folder) if is_sweep else write_report(folder))
    return 0


def write_study_page(folder: Path | str) -> Path:
    """Writes sweep.html into a sweep's folder, from its store, and returns its path.

    Raises:
        InputError: no sweep's folder.
        OSError: the folder cannot be written.
    """
    from graft.results.report.study import lay_out_study
    from graft.sweep.study import read_study

    path = Path(folder) / SWEEP_FILE
    write_text(path, lay_out_study(read_study(folder)))
    return path
