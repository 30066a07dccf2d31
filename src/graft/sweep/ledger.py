"""The ledger of trials: who runs which, what came of it. Several processes on one folder share it.

A trial is an Optuna trial; what Optuna has no field for stands in its user attributes. Three locks keep order, all of
them the kernel's (`locks`): one is held while the next trial is chosen, one by the process that looks after a trial for
as long as it does, and one by the process that trains it (`job`). A trial that runs in the store while nobody holds its
locks was left by a process that is dead, and whoever comes next takes it over, in its own folder, under its own number.
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
    """Where trials come from: a grid's combinations, or a search."""

    @property
    def space(self) -> Space: ...

    def propose(self, trials: Sequence[TrialRecord]) -> Proposal | None:
        """A further trial, or None where no more are wanted."""
        ...

    def choose(self, study: optuna.Study, trial: FrozenTrial, identifier: int) -> dict[str, str]:
        """The choices that a proposal left open: key to value, in the override grammar.

        Args:
            identifier: the trial's in the study's store.
        """
        ...


class TrialLedger:
    """The trials of one sweep.

    Args:
        study: the name in the store; by default the folder's.

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
        """The next trial: one that was left half-done, else a new one if there is a source, else None."""
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
        """Whether a trial is still under way."""
        return any(not trial.state.is_finished() for trial in self._frozen())

    def failed(self, claim: Claim) -> None:
        """One attempt more that failed."""
        claim.failures += 1
        self._set(claim.number, FAILURES, claim.failures)

    def again(self, claim: Claim) -> None:
        """One attempt more."""
        claim.attempts += 1
        self._set(claim.number, ATTEMPTS, claim.attempts)

    def finish(self, claim: Claim, ending: Ending) -> None:
        """Enters what came of it; from here on the trial does not change."""
        if ending.metrics:
            self._set(claim.number, METRICS, figures(ending.metrics))
        if ending.reason:
            self._set(claim.number, REASON, ending.reason)
        values = list(ending.values) if ending.state == COMPLETE else None
        self.study.tell(claim.number, values, state=ENDS[ending.state])
        claim.lock.release()

    def not_begun(self, claim: Claim) -> None:
        """Takes back the attempt that the claim counts: its job runs already, or none could be started."""
        claim.attempts -= 1
        self._set(claim.number, ATTEMPTS, claim.attempts)

    def leave(self, claim: Claim) -> None:
        """Lets go of a trial that is not over: whoever comes next goes on with it."""
        claim.lock.release()

    def trials(self) -> list[TrialRecord]:
        """All of them. One that is over does not change any more, so that each is read once."""
        trials = self._frozen()
        while len(self._over) < len(trials) and trials[len(self._over)].state.is_finished():
            self._over.append(record_of(trials[len(self._over)], self.folder))
        return [*self._over, *(record_of(trial, self.folder) for trial in trials[len(self._over) :])]

    def _frozen(self) -> list[FrozenTrial]:
        return self.store.get_all_trials(self._id, deepcopy=False)

    def _take(self, number: int, source: Source | None) -> Claim | None:
        """The trial, if it is not over and nobody has it.

        Only who holds its lock enters its end, so what the store says of it counts from then on: before, its owner may
        have entered the end and given back the lock.
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
        """The lock on looking after the trial, now held, if nobody looks after it and nobody trains it."""
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
        """What the store is given in one piece, so that no process can die amid it."""
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
        """Locks and checkpoints lie in the folder, so a study in a database has one folder, which its workers share."""
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
