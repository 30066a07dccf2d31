"""The loop of a sweep: claims a trial, launches it, and records its result, until no trial is left.

A trial's metrics are read from its run's files, and the launcher reports how its process ended. Trials in this process,
in separate processes and on other machines are therefore the same to the engine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graft.config.faults import InputError
from graft.sweep.attempt import Claim, Ended, Ending, Interrupted, Launch
from graft.sweep.job import FAILURE_FILE
from graft.sweep.ledger import Source, TrialLedger
from graft.sweep.objectives import METRICS_FILE, read_metrics, values_of
from graft.sweep.record import COMPLETE, FAILED, PRUNED, Objective
from graft.sweep.sweep_settings import SweepSettings

POLL_SECONDS = 0.5
SHOWN = 12  # overrides of a trial on one line


@dataclass(slots=True)
class Sweep:
    """The work of one process on a study.

    Args:
        say: receives a message for the user.
        slots: number of threads that call the launcher at once.
        batch: number of trials per call of the launcher.
        has_job: whether the trial has a job that runs without this process or whose result is not recorded yet. The
            launcher then follows this job instead of starting another.
        waits: whether to wait for jobs that run without this process.
    """

    ledger: TrialLedger
    source: Source
    launch: Launch
    settings: SweepSettings
    say: Callable[[str], None]
    slots: int = 1
    batch: int = 1
    has_job: Callable[[Claim], bool] = lambda claim: False
    waits: bool = True
    failures: int = 0
    """Number of trials that failed in this process, counted by several threads."""
    _counting: threading.Lock = field(default_factory=threading.Lock)
    _stopped: bool = False
    _elsewhere: set[int] = field(default_factory=set[int])

    def run(self) -> None:
        """Runs until the study has all its trials, too many have failed, or the remaining ones run elsewhere.

        Raises:
            Interrupted: a trial was stopped by a signal.
        """
        if self.slots == 1:
            self._work()
        else:
            self._work_at_once()
        if self._stopped and not self.gave_up:
            raise Interrupted

    @property
    def gave_up(self) -> bool:
        """Whether too many trials have failed to start another one."""
        return self.settings.max_failures is not None and self.failures >= self.settings.max_failures

    def _work_at_once(self) -> None:
        errors: list[BaseException] = []

        def work() -> None:
            try:
                self._work()
            except BaseException as error:  # raised again below, in the thread that waits
                errors.append(error)
                self._stopped = True

        threads = [threading.Thread(target=work, name=f"trials-{slot}") for slot in range(self.slots)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:  # the trials' processes have had the same signal, and save their state
            self._stopped = True
            for thread in threads:
                thread.join()
            raise
        if errors:
            raise errors[0]

    def _work(self) -> None:
        while not self._stopped:
            claims = self._claims()
            if claims:
                self._look_after(claims)
            elif self.waits and self.ledger.others_run():
                time.sleep(POLL_SECONDS)  # should another worker die, its trial is taken over
            else:
                return
            if self._elsewhere and self.settings.n_trials:
                return  # a search learns from these before it chooses the next

    def _claims(self) -> list[Claim]:
        """Claims trials to launch together, and records those that have already ended or cannot succeed."""
        claims: list[Claim] = []
        while len(claims) < self.batch and not self._stopped:
            claim = self.ledger.claim(self.source, self._elsewhere)
            if claim is None:
                break
            if self.has_job(claim):
                self.ledger.not_begun(claim)
                claims.append(claim)
            elif not self._is_over(claim):
                self._begin(claim)
                claims.append(claim)
        return claims

    def _is_over(self, claim: Claim) -> bool:
        """Whether the trial's run ended without supervision, or was interrupted too often. Records the result."""
        if claim.interruptions == 0 and claim.failures == 0:
            return False
        metrics = read_metrics(claim.folder)
        if metrics is not None and metrics.get("frozen_verified") is not False:
            ending = judge(metrics, self.ledger.objectives)
            if ending.state != FAILED:
                self._enter(claim, ending)
                return True
        if claim.interruptions > self.settings.max_interruptions:
            reason = (
                f"its process ended {claim.interruptions} times without a word (killed, or out of memory); try"
                " hydra/launcher=process, where a crash costs one trial, or hydra.sweeper.max_interruptions"
            )
            self._enter(claim, Ending(state=FAILED, reason=reason))
            return True
        return False

    def _begin(self, claim: Claim) -> None:
        gone_on = ", goes on from where it stopped" if claim.attempts > 1 else ""
        self.say(f"trial {claim.number}: {' '.join(claim.overrides[:SHOWN])}{gone_on}")
        (claim.folder / METRICS_FILE).unlink(missing_ok=True)
        (claim.folder / FAILURE_FILE).unlink(missing_ok=True)

    def _look_after(self, claims: Sequence[Claim]) -> None:
        """Launches the trials, and repeats failed ones that have attempts left."""
        open_claims = {claim.number: claim for claim in claims}
        try:
            while claims:
                again: list[Claim] = []
                for claim, ended in self.launch(claims):
                    if self._settle(claim, ended):
                        del open_claims[claim.number]
                    else:
                        again.append(claim)
                    if self._stopped:
                        return
                for claim in again:
                    self.ledger.again(claim)
                    self._begin(claim)
                claims = again
            assert not open_claims, f"the launcher said nothing of {sorted(open_claims)}"
        except InputError:
            for claim in open_claims.values():
                self.ledger.not_begun(claim)
            raise
        finally:
            for claim in open_claims.values():
                self.ledger.leave(claim)

    def _settle(self, claim: Claim, ended: Ended) -> bool:
        """Records the end of an attempt. Returns whether the trial is finished here; otherwise it is to be repeated."""
        if ended.interrupted or ended.elsewhere:
            self.ledger.leave(claim)
            self._stopped = self._stopped or ended.interrupted
            if ended.elsewhere:
                self._elsewhere.add(claim.number)
            return True
        ending = ending_of(claim, ended, self.ledger.objectives)
        if ending.state == FAILED:
            self.ledger.failed(claim)
            if claim.failures <= self.settings.retries:
                self.say(f"trial {claim.number} failed: {ending.reason}\ntrial {claim.number} is tried again")
                return False
        self._enter(claim, ending)
        return True

    def _enter(self, claim: Claim, ending: Ending) -> None:
        self.ledger.finish(claim, ending)
        if ending.state == FAILED:
            with self._counting:
                self.failures += 1
                self._stopped = self._stopped or self.gave_up
        self.say(f"trial {claim.number} {outcome(ending, self.ledger.objectives)}")


def collect(ledger: TrialLedger, end_of: Callable[[Claim], Ended | None]) -> None:
    """Records the results of trials whose jobs ended without supervision. Starts no trial."""
    numbers: set[int] = set()
    while (claim := ledger.claim(None, numbers)) is not None:
        numbers.add(claim.number)
        ledger.not_begun(claim)
        ended = end_of(claim)
        if ended is None:
            ledger.leave(claim)
            continue
        ending = ending_of(claim, ended, ledger.objectives)
        if ending.state == FAILED:
            ledger.failed(claim)
        ledger.finish(claim, ending)


def ending_of(claim: Claim, ended: Ended, objectives: Sequence[Objective]) -> Ending:
    """The result of a trial whose job ended in this way."""
    metrics = read_metrics(claim.folder)
    if ended.reason:
        return Ending(state=FAILED, metrics=metrics, reason=ended.reason)
    if metrics is None:
        return Ending(state=FAILED, reason=f"it ended without {METRICS_FILE}")
    return judge(metrics, objectives)


def judge(metrics: Mapping[str, Any], objectives: Sequence[Objective]) -> Ending:
    """The result of a completed run, by the study's objectives."""
    if metrics.get("pruned"):
        return Ending(state=PRUNED, metrics=metrics)
    values, lacking = values_of(metrics, objectives)
    if lacking:
        return Ending(state=FAILED, metrics=metrics, reason=lacking)
    return Ending(state=COMPLETE, values=tuple(values), metrics=metrics)


def outcome(ending: Ending, objectives: Sequence[Objective]) -> str:
    if ending.state == FAILED:
        return f"failed: {ending.reason}"
    if ending.state == PRUNED:
        return "was stopped early"
    values = (f"{each.metric} {value:.6g}" for each, value in zip(objectives, ending.values, strict=True))
    return f"is complete: {', '.join(values)}"
