"""A trial from inside its job: its identity, whether to stop early, and where to record a failure."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.config.faults import InputError, nearest, reason_of
from graft.config.schema import TrainerConfig
from graft.sweep.record import read_description, training_lock
from graft.system.files import write_text
from graft.system.locks import locking
from graft.system.processes import RANKS, is_first

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

TRIAL = "GRAFT_TRIAL"
"""Environment variable: the sweep's folder, a colon, the trial's number."""
PARENT = "GRAFT_PARENT"
"""Environment variable: the process that must not be outlived."""
STAYS = "GRAFT_STAYS"
"""Environment variable: set where this process runs one job after the other."""
SWEPT = "GRAFT_SWEPT"
"""Environment variable: the keys that the sweep varies, separated by commas."""
ALL_ALIKE = "-m: expected a key that changes the trials"
"""How the reason begins for which a whole sweep is refused."""
FAILURE_FILE = "failure.txt"


class SweepTrial:
    """The trial that this process runs."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self.description = read_description(folder)
        self._opened: tuple[optuna.Study, BaseStorage] | None = None

    def should_stop(self, step: int, figures: Mapping[str, Any]) -> bool:
        """Records the objective at this step, and asks the pruner. Called in one process, which informs the others."""
        objective = str(self.description["objectives"][0]).rpartition(" ")[0]
        if objective not in figures:
            closest = nearest(objective, figures) or sorted(figures)
            raise InputError(
                f"hydra.sweeper.objectives: expected a metric of each epoch, which a pruner can watch, received"
                f" {objective}; try {' or '.join(closest)}, or hydra.sweeper.pruner=none"
            )
        study, storage = self._open()
        identifier = storage.get_trial_id_from_study_id_trial_number(
            storage.get_study_id_from_name(study.study_name), self.number
        )
        if step not in storage.get_trial(identifier).intermediate_values:  # a resumed run repeats steps
            storage.set_trial_intermediate_value(identifier, step, float(figures[objective]))
        return study.pruner.prune(study, storage.get_trial(identifier))

    def _open(self) -> tuple[optuna.Study, BaseStorage]:
        """Opens the store on first use. Most processes never do."""
        if self._opened is None:
            import optuna

            from graft.sweep.samplers import make_pruner
            from graft.sweep.store import open_store, quiet

            quiet()
            description = self.description
            storage = open_store(self.folder, description["storage"])
            pruner = make_pruner(description["pruner"], description["pruner_options"])
            study = optuna.load_study(study_name=description["study"], storage=storage, pruner=pruner)
            self._opened = study, storage
        return self._opened


def in_sweep() -> bool:
    """Whether this process runs a trial of a sweep."""
    return bool(os.environ.get(TRIAL))


@contextmanager
def trial_of_this_job() -> Generator[SweepTrial | None]:
    """The trial named by the environment, locked while the job runs. None if no pruner monitors it.

    The reason for an error is written into the trial's folder, where the sweep finds it, however the job was launched.
    """
    named = os.environ.get(TRIAL)
    if not named:
        yield None
        return
    path, _, number = named.rpartition(":")
    folder = Path(path)
    trial = SweepTrial(folder, int(number))
    watched = trial if trial.description["pruner"] != "none" else None
    if not is_first():
        yield watched
        return
    if parent := os.environ.get(PARENT):
        end_with(int(parent))
    # The lock waits for a process that a killed sweep left behind.
    with locking(training_lock(folder, int(number))), _ReasonKept(folder / number):
        yield watched


class _ReasonKept:
    """Within this context, the reason for any error is written into the trial's folder. The error propagates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):  # not a request to stop
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / FAILURE_FILE, reason_of(error) + "\n")


def check_sweep(trainer: TrainerConfig, in_a_sweep: bool) -> None:
    """Raises InputError if Lightning would start another process by repeating the command of a whole sweep."""
    several = trainer.devices * trainer.num_nodes > 1
    launched = any(name in os.environ for name in RANKS)
    if in_a_sweep and several and not launched:
        raise InputError(
            f"trainer.devices: expected 1 for trials in the sweep's own process, received {trainer.devices} on"
            f" {trainer.num_nodes} machine(s); try hydra/launcher=process"
        )


def check_varied(without_effect: Sequence[str]) -> None:
    """Raises InputError where all that the sweep varies has no effect in this run, so that its trials would be alike.

    Args:
        without_effect: words of this run's command.
    """
    varied = [key for key in os.environ.get(SWEPT, "").split(",") if key]
    idle = {word.lstrip("+").partition("=")[0] for word in without_effect}
    if varied and idle.issuperset(varied):
        raise InputError(
            f"{ALL_ALIKE}, received {', '.join(varied)}, which a solved head does not read, so that all of them would"
            " be the same; try -m head=linear,stages or -m loss.label_smoothing=0,0.1, or head.solver=sgd, which trains"
            " by steps"
        )


def end_with(parent: int) -> None:
    """On Linux, requests a SIGTERM when the parent process dies. Elsewhere, this process runs to its end."""
    import ctypes
    import signal
    import sys

    if sys.platform != "linux":
        return
    set_signal_of_parents_death = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_signal_of_parents_death, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # it died before it could be asked for
        os.kill(os.getpid(), signal.SIGTERM)
