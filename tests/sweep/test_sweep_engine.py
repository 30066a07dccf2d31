"""Trials are run once, whatever ends a process: the ledger and the engine, with jobs that only write a figure."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from graft.config.faults import InputError
from graft.sweep.attempt import Claim, Ended, Ending, Interrupted
from graft.sweep.conduct import conduct
from graft.sweep.engine import Sweep
from graft.sweep.ledger import TrialLedger
from graft.sweep.record import FAILED, JOURNAL, Objective, StudyRecord, training_lock
from graft.sweep.sources import Grid
from graft.sweep.space import read_space
from graft.sweep.study import read_study
from graft.sweep.sweep_settings import SweepSettings
from graft.system.locks import FileLock

LOSS = (Objective(metric="loss", direction="min"),)
LAUNCH = Callable[[Claim], str | None]

# A process that works on a study. Arguments: this folder, the sweep's, settings, space, seconds that a trial takes.
WORKER = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1])))
from test_sweep_engine import LOSS, job, run
from graft.sweep.sweep_settings import SweepSettings
folder, seconds = Path(sys.argv[2]), float(sys.argv[5])
settings, space = json.loads(sys.argv[3]), json.loads(sys.argv[4])
run(folder, space, job(folder, seconds), SweepSettings(objectives=LOSS, **settings))
"""


def run(
    folder: Path, space: Sequence[str], launch: LAUNCH, settings: SweepSettings | None = None, slots: int = 1
) -> StudyRecord:
    """A sweep of jobs that return why they failed, or None."""

    def launched(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Ended]]:
        for claim in claims:
            yield claim, Ended(reason=launch(claim) or "")

    read = read_space({}, space, OverridesParser.create())
    return conduct(folder, settings or SweepSettings(objectives=LOSS), read, launched, slots=slots, say=print)


def job(folder: Path, seconds: float = 0.0) -> LAUNCH:
    """Writes (x - 2)², and two lines into a log that all jobs share."""

    def log(word: str, claim: Claim) -> None:
        with open(folder.parent / "log", "a") as file:
            file.write(f"{word} {claim.number} {claim.choices['x']}\n")

    def launch(claim: Claim) -> None:
        log("begin", claim)
        time.sleep(seconds)
        claim.folder.mkdir(parents=True, exist_ok=True)
        log("end", claim)
        written = claim.folder / "metrics.json"
        written.write_text(json.dumps({"loss": (float(claim.choices["x"]) - 2) ** 2}))

    return launch


def logged(folder: Path, word: str) -> list[str]:
    lines = (folder.parent / "log").read_text().splitlines()
    return [line.split()[2] for line in lines if line.startswith(word)]


def worker(folder: Path, settings: dict[str, object], space: Sequence[str], seconds: float) -> subprocess.Popen[bytes]:
    words = [str(Path(__file__).parent), str(folder), json.dumps(settings), json.dumps(space), str(seconds)]
    return subprocess.Popen([sys.executable, "-c", WORKER, *words], stdout=subprocess.DEVNULL)


def test_a_grid_runs_each_combination_once_and_the_same_sweep_again_runs_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    study = run(folder, ["x=1,2,4", "seed=7"], job(folder))
    assert [(trial.choices, trial.values, trial.state) for trial in study.trials] == [
        ({"x": "1"}, (1.0,), "complete"), ({"x": "2"}, (0.0,), "complete"), ({"x": "4"}, (4.0,), "complete")
    ]  # fmt: skip
    assert study.trials[0].overrides == ("seed=7", "x=1")
    assert [trial.number for trial in study.best] == [1]
    assert run(folder, ["x=1,2,4", "seed=7"], job(folder)) == study
    assert logged(folder, "begin") == ["1", "2", "4"]


def test_trials_done_before_with_other_overrides_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sweep"
    run(folder, ["x=1,2", "epochs=5", "seed=7"], job(folder))
    run(folder, ["x=1,2", "seed=7", "epochs=5"], job(folder))
    assert "note" not in capsys.readouterr().out
    run(folder, ["x=1,2,3", "seed=7", "epochs=9"], job(folder))
    said = "note      trial 0 began with epochs=5 where this command has epochs=9, and stays as it is\n"
    assert said in capsys.readouterr().out
    assert logged(folder, "begin") == ["1", "2", "3"]


def test_a_grid_grows_with_its_command(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    run(folder, ["x=1,2"], job(folder))
    study = run(folder, ["x=1,2,3"], job(folder))
    assert [trial.choices["x"] for trial in study.trials] == ["1", "2", "3"]
    assert logged(folder, "begin") == ["1", "2", "3"]


def test_a_failed_trial_keeps_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    good = job(folder)
    study = run(folder, ["x=1,2,3"], lambda claim: "out of memory" if claim.choices["x"] == "2" else good(claim))
    assert [trial.state for trial in study.trials] == ["complete", "failed", "complete"]
    assert [(trial.number, trial.reason, trial.values) for trial in study.failed] == [(1, "out of memory", ())]
    again = run(folder, ["x=1,2,3"], good)
    assert [trial.state for trial in again.trials] == ["complete", "failed", "complete"]
    mended = run(folder, ["x=1,2,3"], good, SweepSettings(objectives=LOSS, retry_failed=True))
    assert [(trial.state, trial.again_of) for trial in mended.trials[3:]] == [("complete", 1)]
    assert mended.failed == ()
    assert [trial.number for trial in mended.best] == [3]


def test_retries_and_max_failures(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    attempts: Counter[str] = Counter()
    good = job(folder)

    def launch(claim: Claim) -> str | None:
        attempts[claim.choices["x"]] += 1
        second = claim.choices["x"] == "2" and claim.attempts == 2
        return good(claim) if second or claim.choices["x"] == "1" else "no"

    settings = SweepSettings(objectives=LOSS, retries=1, max_failures=2)
    study = run(folder, ["x=1,2,3,4,5"], launch, settings)
    assert attempts == {"1": 1, "2": 2, "3": 2, "4": 2}
    assert [(trial.state, trial.attempts) for trial in study.trials] == [
        ("complete", 1), ("complete", 2), ("failed", 2), ("failed", 2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"loss": float("nan")}, "loss is nan, which is no finite number"),
        ({"loss": None}, "loss could not be computed (null in metrics.json), so it judges no trial"),
        ({"loss": "low"}, "loss is 'low', which is no finite number"),
        ({"lost": 1.0}, "expected loss in metrics.json, received none; try lost"),
        (None, "it ended without metrics.json"),
    ],
)
def test_a_trial_without_its_figure_has_failed(tmp_path: Path, metrics: object, reason: str) -> None:
    def launch(claim: Claim) -> None:
        claim.folder.mkdir()
        if metrics is not None:
            (claim.folder / "metrics.json").write_text(json.dumps(metrics))

    study = run(tmp_path / "sweep", ["x=1"], launch)
    assert [trial.state for trial in study.trials] == ["failed"]
    assert reason in study.trials[0].reason


def test_a_stopped_trial_is_not_over(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    read = read_space({}, ["x=1,2"], OverridesParser.create())
    settings = SweepSettings(objectives=LOSS)
    with pytest.raises(Interrupted):
        conduct(folder, settings, read, lambda claims: [(claims[0], Ended(interrupted=True))], slots=1, say=print)
    assert [trial.state for trial in read_study(folder).trials] == ["running"]
    study = run(folder, ["x=1,2"], job(folder))
    assert [(trial.state, trial.attempts) for trial in study.trials] == [("complete", 2), ("complete", 1)]


def test_a_trial_that_kills_its_sweep_each_time_is_given_up(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    ledger = TrialLedger(folder, LOSS)
    grid = Grid(read_space({}, ["x=1,2"], OverridesParser.create()))
    for _ in range(3):
        claim = ledger.claim(grid)
        assert claim is not None
        assert claim.number == 0
        claim.lock.release()  # as the kernel does for a process that dies
    study = run(folder, ["x=1,2"], job(folder), SweepSettings(objectives=LOSS, max_interruptions=2))
    assert [trial.state for trial in study.trials] == ["failed", "complete"]
    assert "its process ended 3 times without a word" in study.trials[0].reason


def test_a_trial_whose_job_outlives_its_sweep_is_not_run_beside_it_and_its_result_counts(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    ledger = TrialLedger(folder, LOSS)
    grid = Grid(read_space({}, ["x=1,2"], OverridesParser.create()))
    left = ledger.claim(grid)
    assert left is not None
    left.lock.release()
    still = FileLock(training_lock(folder, 0))
    still.acquire()
    other = ledger.claim(grid)
    assert other is not None
    assert other.number == 1
    other.lock.release()
    (folder / "0").mkdir()
    (folder / "0" / "metrics.json").write_text('{"loss": 5.0}')
    still.release()
    study = run(folder, ["x=1,2"], job(folder))
    assert [(trial.state, trial.values) for trial in study.trials] == [("complete", (5.0,)), ("complete", (0.0,))]
    assert logged(folder, "begin") == ["2"]


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "qmc"])
def test_a_search_that_was_cut_short_goes_on_as_it_would_have(tmp_path: Path, sampler: str) -> None:
    space = ["x=interval(-5.0,5.0)", "y=range(0,9)"]
    whole, halves = tmp_path / "a" / "sweep", tmp_path / "b" / "sweep"
    whole.parent.mkdir()
    halves.parent.mkdir()

    def settings(trials: int) -> SweepSettings:
        return SweepSettings(objectives=LOSS, n_trials=trials, sampler=sampler)

    expected = run(whole, space, job(whole), settings(9))
    for trials in (4, 5, 9):
        study = run(halves, space, job(halves), settings(trials))
        assert len(study.trials) == trials
    assert [trial.choices for trial in study.trials] == [trial.choices for trial in expected.trials]
    assert len({trial.choices["x"] for trial in study.trials}) == 9


@pytest.mark.parametrize(
    ("space", "drawn"),
    [
        (["x=interval(0.0,1.0)", "y=interval(0.0,1.0)"], {"x"}),  # a key more
        (["y=interval(0.0,1.0)"], set[str]()),  # a key less
        (["x=interval(2.0,3.0)"], set[str]()),  # an interval without what was drawn
        (["x=interval(0.0,1.0)"], {"x"}),
    ],
)
def test_what_failed_in_a_search_is_tried_anew_in_whatever_space(
    tmp_path: Path, space: Sequence[str], drawn: set[str]
) -> None:
    folder = tmp_path / "sweep"
    run(folder, ["x=interval(0.0,1.0)"], lambda claim: "no", SweepSettings(objectives=LOSS, n_trials=2))
    again = SweepSettings(objectives=LOSS, n_trials=2, retry_failed=True)
    study = run(folder, space, job(folder), again)
    assert [(trial.state, trial.again_of) for trial in study.trials] == [
        ("failed", None), ("failed", None), ("complete", 0), ("complete", 1)
    ]  # fmt: skip
    assert [trial.choices for trial in study.trials[2:]] == [trial.choices for trial in study.trials[:2]]
    frozen = TrialLedger(folder, LOSS).study.get_trials()
    assert [set(trial.params) for trial in frozen[2:]] == [drawn, drawn]


def test_a_choice_cannot_grow_amid_a_search(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    settings = SweepSettings(objectives=LOSS, n_trials=2)
    run(folder, ["x=choice(1,2)"], job(folder), settings)
    with pytest.raises(InputError, match=r"x: expected what the study has searched over until now"):
        run(folder, ["x=choice(1,2,3)"], job(folder), SweepSettings(objectives=LOSS, n_trials=3))
    with pytest.raises(InputError, match=r"objectives: expected those of the study in .* \(loss min\), received"):
        run(folder, ["x=choice(1,2)"], job(folder), SweepSettings(objectives=(Objective(metric="f", direction="max"),)))


def test_a_torn_last_line_of_the_journal_is_taken_off(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    study = run(folder, ["x=1,3"], job(folder))
    with open(folder / JOURNAL, "ab") as journal:
        journal.write(b'{"op_code":4,"worker_')
    assert read_study(folder) == study
    assert len(run(folder, ["x=1,2,3"], job(folder)).complete) == 3


def test_a_database_keeps_the_trials_too_and_belongs_to_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    settings = SweepSettings(objectives=LOSS, storage=f"sqlite:///{tmp_path}/trials.db", study="mine")
    run(folder, ["x=1,2"], job(folder), settings)
    study = run(folder, ["x=1,2,3"], job(folder), settings)
    assert [trial.values for trial in study.trials] == [(1.0,), (0.0,), (1.0,)]
    assert not (folder / JOURNAL).exists()
    with pytest.raises(InputError, match=r"belongs to another; try hydra\.sweeper\.study=NAME"):
        run(tmp_path / "elsewhere", ["x=1"], job(folder), settings)


def test_several_slots_share_the_work(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    began = time.perf_counter()
    study = run(folder, ["x=range(0,8)"], job(folder, 0.4), slots=4)
    assert time.perf_counter() - began < 8 * 0.4
    assert sorted(logged(folder, "begin")) == [str(x) for x in range(8)]
    assert len(study.complete) == 8


def test_trials_launched_together_are_entered_as_they_end_and_those_that_fail_are_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    good, told = job(folder), list[list[str]]()

    def launched(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Ended]]:
        for claim in reversed(claims):
            fails = claim.choices["x"] == "2" and claim.attempts == 1
            yield claim, Ended(reason="no" if fails else good(claim) or "")
            told.append([trial.state for trial in read_study(folder).trials])

    read = read_space({}, ["x=1,2,3"], OverridesParser.create())
    settings = SweepSettings(objectives=LOSS, retries=1)
    study = conduct(folder, settings, read, launched, slots=1, say=print, batch=5)
    assert [(trial.state, trial.attempts) for trial in study.trials] == [
        ("complete", 1),
        ("complete", 2),
        ("complete", 1),
    ]
    assert told == [
        ["running", "running", "complete"], ["running", "running", "complete"], ["complete", "running", "complete"],
        ["complete"] * 3,
    ]  # fmt: skip


def test_jobs_that_live_elsewhere_are_left_then_taken_up_and_counted_once(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    read = read_space({}, ["x=1,2"], OverridesParser.create())
    settings = SweepSettings(objectives=LOSS, max_interruptions=1)
    submitted: set[int] = set()
    good = job(folder)

    def launched(claims: Sequence[Claim], over: bool) -> Iterator[tuple[Claim, Ended]]:
        for claim in claims:
            if claim.number not in submitted:
                submitted.add(claim.number)
                good(claim)
            yield claim, Ended(elsewhere=not over)

    def go_on(over: bool) -> StudyRecord:
        return conduct(
            folder, settings, read, lambda claims: launched(claims, over), slots=1, say=print, waits=over,
            has_job=lambda claim: claim.number in submitted,
        )  # fmt: skip

    for _ in range(3):  # more often than a trial may be interrupted
        assert [(trial.state, trial.attempts) for trial in go_on(over=False).trials] == [("running", 1)] * 2
    assert [(trial.state, trial.values, trial.attempts) for trial in go_on(over=True).trials] == [
        ("complete", (1.0,), 1), ("complete", (0.0,), 1)
    ]  # fmt: skip
    assert logged(folder, "begin") == ["1", "2"]


def test_a_launcher_that_cannot_begin_costs_no_attempt(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    read = read_space({}, ["x=1"], OverridesParser.create())

    def refused(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Ended]]:
        raise InputError("no such partition")

    for _ in range(2):
        with pytest.raises(InputError, match="no such partition"):
            conduct(folder, SweepSettings(objectives=LOSS), read, refused, slots=1, say=print)
    assert [trial.attempts for trial in run(folder, ["x=1"], lambda claim: "no").trials] == [1]


def test_killed_three_times_and_started_again_each_trial_ends_once_with_the_same_best(tmp_path: Path) -> None:
    space, settings = ["x=interval(-5.0,5.0)"], {"n_trials": 12}
    whole, killed = tmp_path / "a" / "sweep", tmp_path / "b" / "sweep"
    whole.parent.mkdir()
    killed.parent.mkdir()
    expected = run(whole, space, job(whole), SweepSettings(objectives=LOSS, n_trials=12))
    chance = random.Random(0)
    for kills in range(1, 4):
        process = worker(killed, settings, space, 0.05)
        while not (log := killed.parent / "log").exists() or log.read_text().count("begin") < 3 * kills:
            time.sleep(0.005)
        time.sleep(0.1 * chance.random())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert worker(killed, settings, space, 0.0).wait() == 0
    study = read_study(killed)
    assert [trial.state for trial in study.trials] == ["complete"] * 12
    assert [trial.choices for trial in study.trials] == [trial.choices for trial in expected.trials]
    assert [trial.number for trial in study.best] == [trial.number for trial in expected.best]
    assert [trial.values for trial in study.best] == [trial.values for trial in expected.best]
    assert sum(trial.attempts for trial in study.trials) <= 12 + 3
    assert set(Counter(logged(killed, "end")).values()) <= {1, 2}


@pytest.mark.parametrize("trials", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_two_workers_on_one_journal_lose_no_trial_and_double_none(tmp_path: Path, trials: int) -> None:
    folder = tmp_path / "sweep"
    space = ["x=interval(-5.0,5.0)"]
    settings = {"n_trials": trials, "sampler": "random"}
    processes = [worker(folder, settings, space, 0.01) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    study = read_study(folder)
    assert [trial.number for trial in study.complete] == list(range(trials))
    assert len(logged(folder, "begin")) == trials
    assert sorted(logged(folder, "begin")) == sorted(logged(folder, "end"))
    assert {trial.attempts for trial in study.trials} == {1}


def test_every_failure_counts_though_threads_fail_at_once(tmp_path: Path) -> None:
    class Slow(int):
        """Gives other threads the time to read the same number."""

        def __add__(self, more: int) -> Slow:
            time.sleep(0.01)
            return Slow(int(self) + more)

    def never(*_: object) -> Any:
        raise AssertionError

    ledger: Any = SimpleNamespace(finish=lambda *_: None, objectives=LOSS)
    settings = SweepSettings(objectives=LOSS, max_failures=8)
    sweep = Sweep(ledger, never, never, settings, lambda line: None, failures=Slow())  # pyright: ignore[reportArgumentType]
    claim = Claim(number=0, choices={}, overrides=[], folder=tmp_path, attempts=1, failures=0, lock=FileLock(tmp_path))
    ending = Ending(state=FAILED, reason="too large")
    threads = [threading.Thread(target=sweep._enter, args=(claim, ending)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sweep.failures == 8
    assert sweep.gave_up
