"""`graft report FOLDERS…`: writes the page of a run, of a sweep, or of a comparison of runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from graft.config.faults import InputError
from graft.report import COMPARISON, FILE, write_comparison, write_page, write_report
from graft.sweep.record import DESCRIPTION

SWEEP_FILE = "sweep.html"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a run's or a sweep's folder; runs are compared")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help=f"where to; by default {FILE} in the run's folder, {SWEEP_FILE} in the sweep's, or {COMPARISON} in the "
        "folder that holds all the runs'",
    )


def run(args: argparse.Namespace) -> int:
    out = Path(args.out) if args.out else None
    sweeps = [folder for folder in args.folders if (Path(folder) / DESCRIPTION).is_file()]
    runs = [folder for folder in args.folders if folder not in sweeps]
    if out and sweeps and len(args.folders) > 1:
        raise InputError(f"--out: expected one page to write, received several folders with {sweeps[0]}; try it alone")
    for folder in sweeps:
        print(write_study_page(folder, out))
    if runs:
        print(write_report(runs[0], out) if len(runs) == 1 else write_comparison(runs, out))
        for line in _differences(runs):
            print(line)
    return 0


def _differences(runs: Sequence[str]) -> list[str]:
    """For two runs, one sentence per part on whether they differ by more than chance."""
    if len(runs) != 2:
        return []
    from graft.report.compare import names_of
    from graft.report.paired import comparisons
    from graft.report.record import read_run

    first, second = names_of([Path(run) for run in runs])
    return [pair.sentence((first, second)) for pair in comparisons([read_run(run) for run in runs])]


def write_study_page(folder: Path | str, out: Path | None = None) -> Path:
    """Writes sweep.html from the store of a sweep, into its folder or to `out`, and returns its path.

    Raises:
        InputError: the folder is not a sweep's.
        OSError: the folder cannot be written.
    """
    from graft.sweep.page import lay_out_study
    from graft.sweep.study import read_study

    return write_page(out or Path(folder) / SWEEP_FILE, lay_out_study(read_study(folder)))
