"""The ledger of trials: which process runs a trial, and its result. Several processes can share one folder.

A trial is an Optuna trial, with user attributes for whatever Optuna has no field for. There are three kinds of kernel
locks (`locks`): one is held while the next trial is chosen, one by the process that supervises a trial, and one by the
process that trains it (`job`). If a trial is running according to the store but nobody holds its locks, its process is
dead. The next process then takes the trial over, in the same folder and under the same number.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from graft.config.faults import InputError
from graft.sweep.attempt import Claim, Ending
from graft.sweep.objectives import figures
from graft.sweep.record import (
    COMPLETE,
    FAILED,
    LOCKS,
    PRUNED,
    RUNNING,
    Objective,
    TrialRecord,
    caring_lock,
    training_lock,
)
from graft.sweep.sources import Proposal
from graft.sweep.space import Space
from graft.sweep.store import open_store
from graft.system.files import write_text
from graft.system.locks import FileLock, locking

STATES = {
    TrialState.RUNNING: RUNNING,
    TrialState.WAITING: RUNNING,
    TrialState.COMPLETE: COMPLETE,
    TrialState.PRUNED: PRUNED,
    TrialState.FAIL: FAILED,
}
DIRECTIONS = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
ENDS = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}
CHOICES, OVERRIDES, ATTEMPTS, FAILURES, AGAIN_OF = "choices", "overrides", "attempts", "failures", "again_of"
METRICS, REASON = "metrics", "reason"
TOKEN = "token"


class Source(Protocol):
    """A source of trials: the combinations of a grid, or a search."""

    @property
    def space(self) -> Space: ...

    def propose(self, trials: Sequence[TrialRecord]) -> Proposal | None:
        """The next trial; None if no more are wanted."""
        ...

    def choose(self, study: optuna.Study, trial: FrozenTrial, identifier: int) -> dict[str, str]:
        """The choices that a proposal left open: values by key, in Hydra's override grammar.

        Args:
            identifier: id of the trial in the study's store.
        """
        ...


class TrialLedger:
    """The trials of one sweep.

    Args:
        study: name of the study in the store; by default the folder's name.

    Raises:
        InputError: the study has other objectives, or belongs to another folder.
    """

    def __init__(
        self, folder: Path, objectives: Sequence[Objective], *, storage: str | None = None, study: str | None = None
    ) -> None:
        self.folder = folder
        self.objectives = tuple(objectives)
        self.name = study or folder.name
        self._choosing = folder / LOCKS / "choosing"
        self._over: list[TrialRecord] = []  # the first so many trials, as far as they are over
        folder.mkdir(parents=True, exist_ok=True)
        with locking(self._choosing):
            self.store = open_store(folder, storage)
            self.study = self._open()
            self._check_objectives()
            self._check_place(storage)
        self._id = self.store.get_study_id_from_name(self.name)

    def claim(self, source: Source | None, passed_over: Collection[int] = ()) -> Claim | None:
        """The next trial: an abandoned one, otherwise a new one if there is a source, otherwise None."""
        with locking(self._choosing):
            for trial in self._frozen():
                if trial.state.is_finished() or trial.number in passed_over:
                    continue
                if source is None and CHOICES not in trial.user_attrs:
                    continue
                if claim := self._take(trial.number, source):
                    return claim
            if source is None:
                return None
            proposal = source.propose(self.trials())
            if proposal is None:
                return None
            identifier = self.store.create_new_trial(self._id, self._template(proposal, source))
            claim = self._take(self.store.get_trial(identifier).number, source)
            assert claim is not None, "a new trial is nobody else's"
            return claim

    def others_run(self) -> bool:
        """Whether a trial is still running in another process."""
        return any(not trial.state.is_finished() for trial in self._frozen())

    def failed(self, claim: Claim) -> None:
        """Counts a failed attempt."""
        claim.failures += 1
        self._set(claim.number, FAILURES, claim.failures)

    def again(self, claim: Claim) -> None:
        """Counts another attempt."""
        claim.attempts += 1
        self._set(claim.number, ATTEMPTS, claim.attempts)

    def finish(self, claim: Claim, ending: Ending) -> None:
        """Records the final result of the trial."""
        if ending.metrics:
            self._set(claim.number, METRICS, figures(ending.metrics))
        if ending.reason:
            self._set(claim.number, REASON, ending.reason)
        values = list(ending.values) if ending.state == COMPLETE else None
        self.study.tell(claim.number, values, state=ENDS[ending.state])
        claim.lock.release()

    def not_begun(self, claim: Claim) -> None:
        """Subtracts the attempt that the claim added, because its job is already running or could not be started."""
        claim.attempts -= 1
        self._set(claim.number, ATTEMPTS, claim.attempts)

    def leave(self, claim: Claim) -> None:
        """Releases an unfinished trial, which the next process resumes."""
        claim.lock.release()

    def trials(self) -> list[TrialRecord]:
        """All trials. Finished ones do not change, so each of these is read once."""
        trials = self._frozen()
        while len(self._over) < len(trials) and trials[len(self._over)].state.is_finished():
            self._over.append(record_of(trials[len(self._over)], self.folder))
        return [*self._over, *(record_of(trial, self.folder) for trial in trials[len(self._over) :])]

    def _frozen(self) -> list[FrozenTrial]:
        return self.store.get_all_trials(self._id, deepcopy=False)

    def _take(self, number: int, source: Source | None) -> Claim | None:
        """Claims the trial if it is unfinished and no process has it.

        Only the holder of its lock records its end, so the trial is read from the store after the lock was acquired:
        before that, its owner may have recorded the end and released the lock.
        """
        lock = self._free(number)
        if lock is None:
            return None
        try:
            trial = self.store.get_trial(self._identifier(number))
            if not trial.state.is_finished():
                return self._begin(trial, source, lock)
        except BaseException:
            lock.release()
            raise
        lock.release()
        return None

    def _free(self, number: int) -> FileLock | None:
        """Acquires the trial's supervision lock, if no process supervises or trains it; otherwise None."""
        lock = FileLock(caring_lock(self.folder, number))
        if not lock.try_acquire():
            return None
        training = FileLock(training_lock(self.folder, number))
        if not training.try_acquire():  # its sweep was killed, and the process that trains it lives
            lock.release()
            return None
        training.release()
        return lock

    def _template(self, proposal: Proposal, source: Source) -> FrozenTrial:
        """The complete trial, which the store receives in one operation, so that a crash cannot leave half of it."""
        attributes: dict[str, Any] = {}
        if proposal.choices is not None:
            attributes = {CHOICES: dict(proposal.choices), OVERRIDES: source.space.overrides(proposal.choices)}
        if proposal.again_of is not None:
            attributes[AGAIN_OF] = proposal.again_of
        return optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=dict(proposal.params),
            distributions=dict(proposal.distributions),
            user_attrs=attributes,
        )

    def _begin(self, trial: FrozenTrial, source: Source | None, lock: FileLock) -> Claim:
        choices: dict[str, str] | None = trial.user_attrs.get(CHOICES)
        if choices is None:
            assert source is not None, f"trial {trial.number} has no choices, and nobody to make them"
            choices = source.choose(self.study, trial, self._identifier(trial.number))
            self._set(trial.number, OVERRIDES, source.space.overrides(choices))
            self._set(trial.number, CHOICES, choices)
        record = record_of(self.store.get_trial(self._identifier(trial.number)), self.folder)
        claim = Claim(
            number=record.number,
            choices=record.choices,
            overrides=record.overrides,
            folder=record.folder,
            attempts=record.attempts,
            failures=trial.user_attrs.get(FAILURES, 0),
            lock=lock,
        )
        self.again(claim)
        return claim

    def _set(self, number: int, name: str, value: Any) -> None:
        self.store.set_trial_user_attr(self._identifier(number), name, value)

    def _identifier(self, number: int) -> int:
        return self.store.get_trial_id_from_study_id_trial_number(self._id, number)

    def _open(self) -> optuna.Study:
        try:
            return optuna.load_study(study_name=self.name, storage=self.store)
        except KeyError:
            directions = [DIRECTIONS[each.direction] for each in self.objectives]
            return optuna.create_study(study_name=self.name, storage=self.store, directions=directions)

    def _check_objectives(self) -> None:
        present = [str(objective) for objective in self.objectives]
        before = self.study.user_attrs.get("objectives")
        if before is None:
            self.study.set_user_attr("objectives", present)
        elif before != present:
            raise InputError(
                f"hydra.sweeper.objectives: expected those of the study in {self.folder} ({', '.join(before)}),"
                f" received {', '.join(present)}; try the same again, or another hydra.sweep.dir"
            )

    def _check_place(self, storage: str | None) -> None:
        """Checks that a study in a database is used with its own folder, which holds the locks and checkpoints."""
        path = self.folder / LOCKS / TOKEN
        if not path.exists():
            write_text(path, f"{uuid.uuid4()}\n")
        token, recorded = path.read_text().strip(), self.study.user_attrs.get(TOKEN)
        if recorded is None:
            self.study.set_user_attr(TOKEN, token)
        elif recorded != token:
            raise InputError(
                f"hydra.sweeper.storage: expected a study of this sweep's folder ({self.folder}), received"
                f" {self.name!r} in {storage}, which belongs to another; try hydra.sweeper.study=NAME, or the"
                " hydra.sweep.dir that it has, on a disk that all its machines share"
            )


def record_of(trial: FrozenTrial, folder: Path) -> TrialRecord:
    attributes = trial.user_attrs
    state = STATES[trial.state]
    last = trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None
    values = tuple(trial.values or ()) if state == COMPLETE else (last,) if state == PRUNED and last is not None else ()
    return TrialRecord(
        number=trial.number,
        state=state,
        choices=attributes.get(CHOICES, {}),
        overrides=tuple(attributes.get(OVERRIDES, ())),
        folder=folder / str(trial.number),
        values=values,
        metrics=attributes.get(METRICS, {}),
        steps=trial.intermediate_values,
        reason=attributes.get(REASON, ""),
        began=trial.datetime_start.timestamp() if trial.datetime_start else None,
        ended=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
        attempts=attributes.get(ATTEMPTS, 0),
        again_of=attributes.get(AGAIN_OF),
    )
