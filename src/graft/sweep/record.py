"""The files in a sweep's folder, and the record of the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, cast

from graft.config.faults import InputError
from graft.config.figures import ranking
from graft.system.documents import read_json
from graft.system.forms import each, fields, optional, text

RUNNING, COMPLETE, PRUNED, FAILED = "running", "complete", "pruned", "failed"
STATES = (COMPLETE, PRUNED, FAILED, RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A metric that a study optimises."""

    metric: str
    direction: str
    """min or max."""

    def __str__(self) -> str:
        return f"{self.metric} {self.direction}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One combination of choices, and its result."""

    number: int
    state: str
    """One of STATES. Running is also one whose process was killed, until the sweep goes on."""
    choices: Mapping[str, str]
    """What this trial has that others have not: key to value, as Hydra's overrides write them."""
    overrides: tuple[str, ...]
    """All overrides, the common ones too."""
    folder: Path
    values: tuple[float, ...] = ()
    """One an objective; of a pruned trial, the last one measured; of a failed one, none."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    steps: Mapping[int, float] = field(default_factory=dict)
    """Epoch to the objective then, where a pruner watches."""
    reason: str = ""
    """Why it failed."""
    began: float | None = None
    ended: float | None = None
    """Seconds since 1970."""
    attempts: int = 0
    """How often it was started: once, if nothing went wrong."""
    again_of: int | None = None
    """The failed trial that this one tries anew."""

    @property
    def seconds(self) -> float | None:
        return self.ended - self.began if self.began is not None and self.ended is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """The study in a sweep's folder."""

    folder: Path
    command: tuple[str, ...]
    objectives: tuple[Objective, ...]
    trials: tuple[TrialRecord, ...]
    importances: Mapping[str, float] = field(default_factory=dict)
    """Key to its share of what moves the first objective; empty where that cannot be told."""

    @property
    def complete(self) -> tuple[TrialRecord, ...]:
        return tuple(trial for trial in self.trials if trial.state == COMPLETE)

    @property
    def failed(self) -> tuple[TrialRecord, ...]:
        """The failed trials that no later trial has repeated."""
        again = {trial.again_of for trial in self.trials}
        return tuple(trial for trial in self.trials if trial.state == FAILED and trial.number not in again)

    @property
    def best(self) -> tuple[TrialRecord, ...]:
        """The best trial (the earliest of equals). With several objectives, the Pareto front."""
        complete = self.complete
        if len(self.objectives) == 1:
            ranked = ranking([trial.values[0] for trial in complete], self.objectives[0].direction)
            return tuple(complete[place] for place in ranked[:1])
        losses = {trial.number: self.losses(trial) for trial in complete if all(map(isfinite, trial.values))}
        return tuple(
            trial
            for trial in complete
            if trial.number in losses and not any(_dominates(other, losses[trial.number]) for other in losses.values())
        )

    def losses(self, trial: TrialRecord) -> tuple[float, ...]:
        """The trial's values, with signs such that lower is better."""
        return tuple(
            value if objective.direction == "min" else -value
            for value, objective in zip(trial.values, self.objectives, strict=True)
        )


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


DESCRIPTION = "sweep.json"
"""The command, the objectives, the store and the pruner: what a trial's job and `graft report` must know."""
KEYS = ("command", "objectives", "storage", "study", "pruner", "pruner_options")
DESCRIPTION_FORM = fields(
    {
        "command": each(text()), "objectives": each(text(), least=1), "storage": optional(text()), "study": text(),
        "pruner": text(), "pruner_options": fields({}),
    },
    needed=KEYS,
)  # fmt: skip
JOURNAL = "journal.log"
LOCKS = ".locks"


def caring_lock(folder: Path, number: int) -> Path:
    """The lock of the process that supervises a trial."""
    return folder / LOCKS / f"{number}.sweep"


def training_lock(folder: Path, number: int) -> Path:
    """The lock of the job that runs a trial."""
    return folder / LOCKS / f"{number}.job"


def read_description(folder: Path) -> dict[str, Any]:
    """The contents of sweep.json.

    Raises:
        InputError: the folder is not a sweep's, or the file is damaged.
    """
    path = folder / DESCRIPTION
    try:
        description = read_json(path)
    except OSError as error:
        raise InputError(
            f"{folder}: expected a sweep's folder ({DESCRIPTION}), received"
            f" {'a folder without it' if folder.is_dir() else 'no folder'}; try one below outputs/sweeps/"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, received something else ({error}); try the sweep again") from error
    if fault := DESCRIPTION_FORM(description):
        raise InputError(f"{path}: expected {fault}; try the sweep again")
    return cast("dict[str, Any]", description)
