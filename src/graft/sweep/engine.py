"""The sweep: claim a trial, launch it, enter what came of it, until none is left.

What a trial is worth stands in the files that its run leaves, and how its process ended is what the launcher says; so
trials in this process, in processes of their own and on other machines are one and the same to the engine.
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
    """One process's work on a study.

    Args:
        say: takes a line for the person who waits.
        slots: threads from which the launcher is called at once.
        batch: trials that it is given in one call.
        has_job: whether a job of the trial's lives without this process, or its end is not entered yet; the launcher
            takes it up instead of beginning another.
        waits: for the jobs that live without this process.
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
    """Trials that failed here; several threads count them."""
    _counting: threading.Lock = field(default_factory=threading.Lock)
    _stopped: bool = False
    _elsewhere: set[int] = field(default_factory=set[int])

    def run(self) -> None:
        """Returns once the study has all its trials, or enough have failed; or what is left lives elsewhere.

        Raises:
            Interrupted: a trial was told to stop.
        """
        if self.slots == 1:
            self._work()
        else:
            self._work_at_once()
        if self._stopped and not self.gave_up:
            raise Interrupted

    @property
    def gave_up(self) -> bool:
        """Whether so many trials failed that no further one begins."""
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
        """Trials to launch together; what is over already, or hopeless, is entered on the way."""
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
        """A trial whose run ended while its sweep was dead, or that outlives no attempt."""
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
        """Launches them, and those of them again that fail and have attempts left."""
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
        """Whether the trial is let go; otherwise it is to be tried again."""
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
    """Enters what came of trials whose jobs have ended while nobody looked after them; begins none."""
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
    """What came of a trial whose job ended so."""
    metrics = read_metrics(claim.folder)
    if ended.reason:
        return Ending(state=FAILED, metrics=metrics, reason=ended.reason)
    if metrics is None:
        return Ending(state=FAILED, reason=f"it ended without {METRICS_FILE}")
    return judge(metrics, objectives)


def judge(metrics: Mapping[str, Any], objectives: Sequence[Objective]) -> Ending:
    """What a run that ended well is worth to the study."""
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
