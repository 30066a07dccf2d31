"""How a job ended: by the word that it left, by what SLURM says, and as what the process inside it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from graft.cluster.follow import end_of
from graft.cluster.record import JobRecord, enter, has_open_job, read_end, write_end, write_record
from graft.cluster.states import JobState, read_sacct, read_squeue
from graft.commands.jobs import _collect
from graft.sweep.attempt import Claim, Ended
from graft.sweep.conduct import conduct
from graft.sweep.ledger import TrialLedger
from graft.sweep.record import Objective
from graft.sweep.space import read_space
from graft.sweep.sweep_settings import SweepSettings

RECORD = JobRecord(job="7_1", log="/logs/7_1_0_log.err")
WITHIN = """
import sys
from pathlib import Path
from graft.cluster.slurm_task import SlurmTask
SlurmTask(command=[sys.executable, "-c", sys.argv[2]], folder=Path(sys.argv[1]), env={"WHO": "child"}, max_requeues=1)()
"""
SLEEP = "import pathlib, time; pathlib.Path('begun').touch(); time.sleep(60)"
FAIL = "import signal; signal.signal(signal.SIGTERM, lambda *_: exit('a worker was killed')); " + SLEEP


def test_what_squeue_and_sacct_print() -> None:
    assert read_squeue("12_3|PENDING|Resources|0:00\n12_4|RUNNING|None|1-02:00:01\nnews|of the day\n") == {
        "12_3": JobState(word="PENDING", why="Resources", spent="0:00"),
        "12_4": JobState(word="RUNNING", spent="1-02:00:01"),
    }
    assert read_sacct("12_3|CANCELLED by 1000\n12_4|OUT_OF_MEMORY\n") == {
        "12_3": JobState(word="CANCELLED"), "12_4": JobState(word="OUT_OF_MEMORY")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("RUNNING", None),
        ("REQUEUED", None),
        ("COMPLETING", None),
        ("CANCELLED", "its job 7_1 was cancelled"),
        ("OUT_OF_MEMORY", "its job 7_1 ran out of memory; try a larger hydra.launcher.mem_gb"),
        ("FAILED", "its job 7_1 ended as FAILED without a word; /logs/7_1_0_log.err may say why"),
    ],
)
def test_slurm_is_believed_where_the_job_said_nothing(tmp_path: Path, state: str, reason: str | None) -> None:
    states = {"7_1": JobState(word=state)}
    assert end_of(RECORD, tmp_path, states) == (None if reason is None else Ended(reason=reason))
    write_end(tmp_path, "7_1", "the loss is not finite")
    assert end_of(RECORD, tmp_path, states) == Ended(reason="the loss is not finite")
    assert end_of(RECORD, tmp_path, None) == Ended(reason="the loss is not finite")


@pytest.mark.parametrize(
    ("state", "age", "over"),
    [
        ("COMPLETED", 1, False),
        ("FAILED", 1, False),
        ("FAILED", 60, True),
        ("COMPLETED", 60, True),
        ("CANCELLED", 1, True),
    ],
)
def test_a_word_may_be_on_its_way_over_the_network(tmp_path: Path, state: str, age: float, over: bool) -> None:
    log = tmp_path / "7_1_0_log.err"
    log.touch()
    os.utime(log, (time.time() - age, time.time() - age))
    record = JobRecord(job="7_1", log=str(log))
    assert (end_of(record, tmp_path, {"7_1": JobState(word=state)}) is not None) is over
    write_end(tmp_path, "7_1", "")
    assert end_of(record, tmp_path, {"7_1": JobState(word=state)}) == Ended()


def test_a_job_that_was_submitted_after_slurm_was_asked_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ledger = tmp_path / "sweep", _left_to_slurm(tmp_path / "sweep")
    write_record(folder / "0", JobRecord(job="7_0", log="no log"))

    def ask(jobs: Collection[str]) -> dict[str, JobState]:
        """What SLURM knows; meanwhile another process submits the other trial."""
        assert set(jobs) == {"7_0"}
        write_record(folder / "1", JobRecord(job="8", log="no log"))
        return {}

    monkeypatch.setattr("graft.commands.jobs.states_of", ask)
    _collect(folder)
    forgotten = "SLURM does not know its job 7_0 any more, and the job left no word"
    assert [(trial.state, trial.reason) for trial in ledger.trials()] == [("failed", forgotten), ("running", "")]
    write_end(folder / "1", "8", "the loss is not finite")
    monkeypatch.setattr("graft.commands.jobs.states_of", lambda jobs: {})
    _collect(folder)
    assert [trial.reason for trial in ledger.trials()] == [forgotten, "the loss is not finite"]


def _left_to_slurm(folder: Path) -> TrialLedger:
    """A sweep of two trials whose command has returned."""
    objectives = (Objective(metric="loss", direction="min"),)
    space = read_space({}, ["x=1,2"], OverridesParser.create())

    def submitted(claims: Sequence[Claim]) -> list[tuple[Claim, Ended]]:
        return [(claim, Ended(elsewhere=True)) for claim in claims]

    settings = SweepSettings(objectives=objectives)
    conduct(folder, settings, space, submitted, slots=1, say=str, batch=2, waits=False)
    return TrialLedger(folder, objectives)


def test_a_job_that_slurm_forgot_is_over_and_one_of_which_it_says_nothing_is_not(tmp_path: Path) -> None:
    assert end_of(RECORD, tmp_path, None) is None
    forgotten = end_of(RECORD, tmp_path, {})
    assert forgotten == Ended(reason="SLURM does not know its job 7_1 any more, and the job left no word")
    write_end(tmp_path, "6", "another job of the same trial")
    assert end_of(RECORD, tmp_path, {}) == forgotten


def test_a_job_is_open_until_it_is_entered(tmp_path: Path) -> None:
    folder = tmp_path / "0"
    assert not has_open_job(folder)
    write_record(folder, RECORD)
    assert has_open_job(folder)
    enter(folder, RECORD)
    assert not has_open_job(folder)


def start(folder: Path, code: str, **env: str) -> subprocess.Popen[bytes]:
    given = {**os.environ, "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_ID": "9", **env}
    return subprocess.Popen([sys.executable, "-c", WITHIN, str(folder), code], env=given, cwd=folder)


@pytest.mark.parametrize(
    ("code", "exit_code", "reason"),
    [
        ("import os; assert os.environ['WHO'] == 'child' and os.environ['SLURM_JOB_ID'] == '9'", 0, ""),
        ("raise SystemExit('no images')", 1, "no images"),
        ("import os; os.kill(os.getpid(), 9)", 1, "its process was killed by SIGKILL: out of memory, or by hand"),
        ("raise SystemExit(143)", 143, None),  # SLURM told it to stop, and knows what comes next
    ],
)
def test_the_job_says_how_its_run_ended(tmp_path: Path, code: str, exit_code: int, reason: str | None) -> None:
    write_end(tmp_path, "7_1", "of the time before it was queued again")
    assert start(tmp_path, code).wait() == exit_code
    assert read_end(tmp_path, "7_1") == reason


def test_a_process_that_is_not_the_first_leaves_no_word(tmp_path: Path) -> None:
    process = start(
        tmp_path, "import os; assert os.environ['SLURM_PROCID'] == '1'; raise SystemExit(3)", SLURM_PROCID="1"
    )
    assert process.wait() == 3
    assert read_end(tmp_path, "7_1") is None


@pytest.mark.parametrize(
    ("code", "number", "said"),
    [
        (SLEEP, signal.SIGUSR2, "queued again as often as it may"),
        (FAIL, signal.SIGTERM, None),  # SLURM was ending it, and perhaps queues it again
    ],
)
def test_signals_go_to_the_run_and_only_its_last_time_is_an_end(
    tmp_path: Path, code: str, number: int, said: str | None
) -> None:
    process = start(tmp_path, code, SLURM_RESTART_COUNT="1")
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    reason = read_end(tmp_path, "7_1")
    assert reason is None if said is None else said in (reason or "")
