"""Runs a sweep from its settings to its summary; called by the Hydra plugin."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.config.faults import InputError
from graft.config.program import program
from graft.sweep.record import DESCRIPTION, FAILED, KEYS, RUNNING, StudyRecord, TrialRecord
from graft.sweep.space import Space
from graft.sweep.sweep_settings import SweepSettings
from graft.system.files import write_json

if TYPE_CHECKING:
    from graft.sweep.attempt import Claim, Launch

NEEDED = "optuna"


def check_optuna() -> None:
    """Raises InputError if Optuna, which stores the ledger, is not installed."""
    if importlib.util.find_spec(NEEDED) is None:
        raise InputError(
            f"-m: expected the package {NEEDED}, in which a sweep keeps its trials, received none;"
            " try pip install 'graft-transfer[sweep]', or hydra/sweeper=basic, which keeps none"
        )


def conduct(
    folder: Path,
    settings: SweepSettings,
    space: Space,
    launch: Launch,
    *,
    slots: int,
    say: Callable[[str], None],
    batch: int = 1,
    has_job: Callable[[Claim], bool] = lambda claim: False,
    waits: bool = True,
) -> StudyRecord:
    """Runs the missing trials of the study, and returns the whole study.

    Args:
        slots: number of threads that may call `launch` at once.
        batch: number of trials per call, unless the settings give one.
        has_job: see `engine.Sweep`.
        waits: see `engine.Sweep`.

    Raises:
        InputError: a setting is invalid; nothing was started.
        Interrupted: the sweep was stopped; the same command resumes it.
    """
    from graft.sweep.engine import Sweep
    from graft.sweep.ledger import TrialLedger
    from graft.sweep.samplers import make_pruner
    from graft.sweep.sources import Grid, Search
    from graft.sweep.store import quiet
    from graft.sweep.study import read_study

    quiet()
    make_pruner(settings.pruner, settings.pruner_options)  # its options are right, which each trial would find out late
    ledger = TrialLedger(folder, settings.objectives, storage=settings.storage, study=settings.study)
    trials = ledger.trials()
    again = [trial.number for trial in trials if trial.state == FAILED] if settings.retry_failed else []
    source = Search(space, settings, ledger.study, again) if settings.n_trials else Grid(space, again)
    _describe(folder, settings, ledger.name)
    done = sum(trial.state != RUNNING for trial in trials)
    say(f"sweep     {source.wanted} trials in {folder}{f', {done} of them done before' if done else ''}")
    if note := _run_otherwise(trials, space):
        say(note)
    Sweep(
        ledger, source, launch, settings, say,
        slots=slots, batch=settings.batch or batch, has_job=has_job, waits=waits,
    ).run()  # fmt: skip
    return read_study(folder)


def _describe(folder: Path, settings: SweepSettings, study: str) -> None:
    """Writes sweep.json, for the jobs of the trials and for later readers of the study."""
    command = [*program(), *sys.argv[1:]]
    objectives = [str(objective) for objective in settings.objectives]
    description = (command, objectives, settings.storage, study, settings.pruner, dict(settings.pruner_options))
    write_json(folder / DESCRIPTION, dict(zip(KEYS, description, strict=True)))


def _run_otherwise(trials: Sequence[TrialRecord], space: Space) -> str:
    """A remark on earlier trials that ran with other overrides than this command's."""
    for trial in trials:
        theirs = set(trial.overrides) - {f"{key}={value}" for key, value in trial.choices.items()}
        if trial.overrides and theirs != set(space.fixed):
            apart = (theirs.difference(space.fixed), set(space.fixed) - theirs)
            had, has = (", ".join(sorted(words)) or "nothing" for words in apart)
            return f"note      trial {trial.number} began with {had} where this command has {has}, and stays as it is"
    return ""
