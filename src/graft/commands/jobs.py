"""`graft jobs SWEEP`: shows the state and last output of each trial's job, and records the results of ended ones."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from graft.cluster.follow import end_of
from graft.cluster.record import enter, has_open_job, read_end, read_record
from graft.cluster.states import JobState, states_of
from graft.config.faults import InputError
from graft.config.options import positive
from graft.page.terminal import aligned
from graft.sweep.attempt import Claim, Ended
from graft.sweep.children import ERRORS, OUTPUT
from graft.sweep.conduct import check_optuna
from graft.sweep.record import COMPLETE, FAILED, RUNNING, StudyRecord, TrialRecord, read_description

WIDTH = 100
"""Maximum number of characters that are shown of a job's last line."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", type=Path, help="the sweep's folder, below outputs/sweeps/")
    parser.add_argument("--log", type=int, metavar="TRIAL", help="print the end of this trial's output")
    parser.add_argument("--lines", type=positive, default=20, help="how much of it (default: 20 lines of each file)")


def run(args: argparse.Namespace) -> int:
    check_optuna()
    from graft.sweep.study import read_study, summary

    read_description(args.sweep)
    if args.log is not None:
        print(tails(args.sweep / str(args.log), args.lines))
        return 0
    states = _collect(args.sweep)
    study = read_study(args.sweep)
    print(table(study, states), summary(study), sep="\n")
    return 0


def _collect(sweep: Path) -> Mapping[str, JobState] | None:
    """Records the results of ended jobs, and returns the states of the others; None if SLURM does not answer."""
    from graft.sweep.engine import collect
    from graft.sweep.study import open_ledger

    ledger = open_ledger(sweep)
    folders = [trial.folder for trial in ledger.trials() if trial.state == RUNNING]
    records = [record for folder in folders if (record := read_record(folder)) and not record.entered]
    jobs = {record.job for record in records}
    states = states_of(jobs) if jobs else {}

    def ended(claim: Claim) -> Ended | None:
        record = read_record(claim.folder)
        if record is None or not has_open_job(claim.folder):
            return None
        if record.job not in jobs and read_end(claim.folder, record.job) is None:
            return None  # submitted after SLURM was queried
        end = end_of(record, claim.folder, states)
        if end:
            enter(claim.folder, record)
        return end

    collect(ledger, ended)
    return states


def table(study: StudyRecord, states: Mapping[str, JobState] | None) -> str:
    """One row per trial: its number, job, state, and result or last output."""
    rows = [("trial", "job", "state", "")]
    for trial in study.trials:
        record = read_record(trial.folder)
        state = (states or {}).get(record.job) if record and trial.state == RUNNING else None
        rows.append((str(trial.number), record.job if record else "", _standing(trial, state), _note(study, trial)))
    return "\n".join(aligned(rows, right=[0]))


def _standing(trial: TrialRecord, state: JobState | None) -> str:
    if state is None:
        return trial.state
    return " ".join(filter(None, (state.word, state.why or state.spent)))


def _note(study: StudyRecord, trial: TrialRecord) -> str:
    if trial.state == COMPLETE:
        values = zip(study.objectives, trial.values, strict=True)
        return ", ".join(f"{each.metric} {value:.6g}" for each, value in values)
    if trial.state == FAILED:
        return trial.reason.partition("\n")[0]
    lines = [line for name in (OUTPUT, ERRORS) for line in _lines(trial.folder / name)[-1:]]
    return lines[-1][:WIDTH] if lines else ""


def tails(folder: Path, count: int) -> str:
    """The last lines of a trial's output, and of the job that runs it.

    Args:
        count: number of lines of each file.

    Raises:
        InputError: there is no output.
    """
    record = read_record(folder)
    files = [folder / OUTPUT, folder / ERRORS, *([Path(record.log)] if record else [])]
    texts = {file: _lines(file)[-count:] for file in files if file.exists()}
    if not texts:
        raise InputError(f"--log: expected a trial that has begun, received {folder.name}; try graft jobs SWEEP")
    return "\n".join(line for file, lines in texts.items() for line in (f"== {file}", *lines))


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        return []
