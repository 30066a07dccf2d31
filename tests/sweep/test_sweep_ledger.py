"""Who chooses a trial is alone while it does."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from typing_extensions import override

from graft.config.faults import InputError
from graft.sweep.attempt import Claim, Ending
from graft.sweep.ledger import TrialLedger
from graft.sweep.record import JOURNAL, Objective, TrialRecord
from graft.sweep.sources import Grid, Proposal
from graft.sweep.space import read_space
from graft.sweep.study import read_study
from graft.system.locks import FileLock

LOSS = (Objective(metric="loss", direction="min"),)


class Pondering(Grid):
    """Knows the trials there are, and takes its time."""

    entered, go = threading.Event(), threading.Event()

    @override
    def propose(self, trials: Sequence[TrialRecord]) -> Proposal | None:
        self.entered.set()
        assert self.go.wait(20)
        return super().propose(trials)


def test_while_one_worker_chooses_the_others_wait_and_choose_another_trial(tmp_path: Path) -> None:
    space = read_space({}, ["x=1,2"], OverridesParser.create())
    claims: list[Claim] = []

    def choose(source: Grid) -> None:
        claim = TrialLedger(tmp_path / "sweep", LOSS).claim(source)
        assert claim is not None
        claims.append(claim)

    TrialLedger(tmp_path / "sweep", LOSS)  # opening it takes the same lock
    slow = threading.Thread(target=choose, args=[Pondering(space)])
    quick = threading.Thread(target=choose, args=[Grid(space)])
    slow.start()
    assert Pondering.entered.wait(20)
    quick.start()
    quick.join(0.5)
    waited = quick.is_alive()
    Pondering.go.set()
    slow.join()
    quick.join()
    assert waited
    assert [(claim.number, claim.choices["x"]) for claim in claims] == [(0, "1"), (1, "2")]
    for claim in claims:
        claim.lock.release()


@pytest.mark.parametrize("store", [None, "sqlite"])
def test_a_trial_that_ends_while_another_worker_looks_for_one_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str | None
) -> None:
    """The other reads that it runs; its owner enters its end and gives back the lock; the other gets the lock."""
    url = store and f"sqlite:///{tmp_path}/study.db"
    owner, other = (TrialLedger(tmp_path / "sweep", LOSS, storage=url) for _ in range(2))
    grid = Grid(read_space({}, ["x=1,2"], OverridesParser.create()))
    claims = [owner.claim(grid)]
    read = other.store.get_all_trials

    def read_before_the_end(*given: Any, **named: Any) -> Any:
        trials = [copy.copy(trial) for trial in read(*given, **named)]
        if claims:
            claim = claims.pop()
            assert claim is not None
            owner.finish(claim, Ending(state="complete", values=(4.0,), metrics={"loss": 4.0}))
        return trials

    monkeypatch.setattr(other.store, "get_all_trials", read_before_the_end)
    claim = other.claim(grid)
    assert claim is not None
    assert (claim.number, claim.choices) == (1, {"x": "2"})
    assert [(trial.state, trial.values, trial.attempts) for trial in owner.trials()] == [
        ("complete", (4.0,), 1), ("running", (), 1)
    ]  # fmt: skip
    claim.lock.release()


def test_a_worker_that_is_killed_amid_a_line_of_the_journal_spoils_nobody_elses(tmp_path: Path) -> None:
    ledger, other = (TrialLedger(tmp_path / "sweep", LOSS) for _ in range(2))
    claim = ledger.claim(Grid(read_space({}, ["x=1"], OverridesParser.create())))
    assert claim is not None
    with open(tmp_path / "sweep" / JOURNAL, "ab") as journal:
        journal.write(b'{"op_code":8,"worker_')
    ledger.finish(claim, Ending(state="complete", values=(4.0,), metrics={"loss": 4.0}))
    for reader in (ledger, other, TrialLedger(tmp_path / "sweep", LOSS)):
        assert [(trial.state, trial.values) for trial in reader.trials()] == [("complete", (4.0,))]


def test_threads_that_share_a_lock_hold_it_one_at_a_time(tmp_path: Path) -> None:
    lock, inside, most = FileLock(tmp_path / "lock"), [], []

    def work() -> None:
        for _ in range(300):
            lock.acquire()
            inside.append(None)
            most.append(len(inside))
            inside.pop()
            lock.release()

    errors: list[BaseException] = []
    threads = [threading.Thread(target=_kept(work, errors)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert (len(most), max(most)) == (1200, 1)


def _kept(work: Callable[[], None], errors: list[BaseException]) -> Callable[[], None]:
    def run() -> None:
        try:
            work()
        except BaseException as error:  # asserted on above, in the thread of the test
            errors.append(error)

    return run


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "expected a sweep's folder (sweep.json), received a folder without it; try one below outputs/sweeps/"),
        ("{", "sweep.json: expected JSON, received something else"),
        ("[]", "expected an object, received list; try"),
        ('{"command": []}', "expected objectives, received none; try the sweep again"),
    ],
)
def test_a_folder_that_is_no_sweeps_is_told_from_one_that_is_damaged(
    tmp_path: Path, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(InputError) as raised:
        read_study(tmp_path)
    assert said in str(raised.value)


def test_a_trial_is_read_anew_until_it_is_over(tmp_path: Path) -> None:
    ledger = TrialLedger(tmp_path / "sweep", LOSS)
    grid = Grid(read_space({}, ["x=1,2,3"], OverridesParser.create()))
    claims = [ledger.claim(grid) for _ in range(3)]
    assert [trial.state for trial in ledger.trials()] == ["running"] * 3
    for claim, value in ((claims[1], 5.0), (claims[0], 4.0), (claims[2], 6.0)):
        assert claim is not None
        ledger.finish(claim, Ending(state="complete", values=(value,), metrics={"loss": value}))
        assert ledger.trials() == TrialLedger(tmp_path / "sweep", LOSS).trials()
    assert [(trial.state, trial.values) for trial in ledger.trials()] == [
        ("complete", (4.0,)), ("complete", (5.0,)), ("complete", (6.0,))
    ]  # fmt: skip
