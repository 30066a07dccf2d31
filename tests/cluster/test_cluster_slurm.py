"""Sweeps on a real SLURM: what fails, is cancelled or is cut off costs nothing else, and nothing is run twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.sweep.study import read_study

pytestmark = pytest.mark.slurm


def states(folder: Path) -> list[tuple[str, int, str]]:
    return [(trial.state, trial.attempts, trial.reason) for trial in read_study(folder).trials]


def shown(folder: Path, *words: str) -> str:
    code = "from graft.commands.cli import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "jobs", str(folder), *words],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_array_whose_jobs_fail_are_killed_cancelled_and_out_of_time_costs_the_others_nothing(
    stand_in: Callable[..., Any], ask: Callable[..., str], runs: Path
) -> None:
    limits = ("hydra.launcher.time_min=1", "hydra.launcher.notice_s=45", "hydra.launcher.array_parallelism=8")
    sweep = stand_in("seed=0,1,2,3,4", *limits, "hydra.launcher.setup=['export SETUP_SAID=hello']")
    process = sweep.start()
    sweep.until((sweep.folder / "4" / "begun").exists)
    ask("scancel", sweep.job(4))
    out, err = process.communicate(timeout=400)
    assert process.returncode == 1, out + err
    array = sweep.job(0).partition("_")[0]
    assert f"submitted job {array} for trials 0, 1, 2, 3, 4" in out
    assert states(sweep.folder) == [
        ("complete", 1, ""),
        ("failed", 1, "the loss is not finite"),
        ("complete", 1, ""),  # its time was up, and it was queued again
        ("failed", 1, "its process was killed by SIGKILL: out of memory, or by hand"),
        ("failed", 1, f"its job {array}_4 was cancelled"),
    ]
    assert sorted(runs.read_text().split()[::3]) == ["0", "1", "2", "2", "3", "4"]
    assert set(runs.read_text().split()[1::3]) == {"hello"}
    assert "stopped by SIGUSR2" in (sweep.folder / "2" / "errors.log").read_text()


def test_detached_jobs_are_shown_collected_and_not_submitted_twice(
    stand_in: Callable[..., Any], ask: Callable[..., str], runs: Path
) -> None:
    sweep = stand_in("seed=0,1,2", "hydra.launcher.gpus_per_node=1")
    done = sweep.run("hydra.launcher.detach=true")
    assert done.returncode == 0, done.stderr
    assert "3 trials: 3 running" in done.stdout
    sweep.until((sweep.folder / "2" / "begun").exists)
    sweep.until(lambda: all((sweep.folder / name / "slurm_end.json").exists() for name in "01"))
    table = shown(sweep.folder).splitlines()
    assert [line.split()[:3] for line in table[:4]] == [
        ["trial", "job", "state"], ["0", sweep.job(0), "complete"], ["1", sweep.job(1), "failed"],
        ["2", sweep.job(2), "RUNNING"],
    ]  # fmt: skip
    assert table[2].endswith("the loss is not finite")
    again = sweep.run("hydra.launcher.detach=true")
    assert again.returncode == 1  # one of the trials has failed
    assert "submitted" not in again.stdout
    ask("scancel", "--signal=USR2", sweep.job(2))  # what SLURM does shortly before a job's time is up
    assert sweep.run().returncode == 1
    assert [(state, attempts) for state, attempts, _ in states(sweep.folder)] == [
        ("complete", 1), ("failed", 1), ("complete", 1)
    ]  # fmt: skip
    assert sorted(runs.read_text().split()[::3]) == ["0", "1", "2", "2"]
    assert set(runs.read_text().split()[2::3]) <= {"0", "1", "None"}  # a GPU each, where the machine can pretend
    assert "stopped by SIGUSR2" in shown(sweep.folder, "--log", "2")


def test_a_sweep_that_is_killed_or_interrupted_takes_its_jobs_up_again(
    stand_in: Callable[..., Any], ask: Callable[..., str], runs: Path
) -> None:
    sweep = stand_in("seed=0,2")
    for number in (signal.SIGKILL, signal.SIGINT):
        process = sweep.start()
        assert process.stdout is not None
        assert process.stdout.readline().startswith("sweep     2 trials")
        sweep.until((sweep.folder / "1" / "begun").exists)
        time.sleep(2)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == (-9 if number == signal.SIGKILL else 130), err
    assert "the same command goes on" in err
    ask("scancel", "--signal=USR2", sweep.job(1))
    done = sweep.run()
    assert done.returncode == 0, done.stderr
    assert states(sweep.folder) == [("complete", 1, ""), ("complete", 1, "")]
    assert sorted(runs.read_text().split()[::3]) == ["0", "1", "1"]


def test_what_slurm_refuses_is_said_and_begins_nothing(stand_in: Callable[..., Any], runs: Path) -> None:
    sweep = stand_in("seed=0,1")
    done = sweep.run("hydra.launcher.partition=moon")
    assert done.returncode == 2
    assert "invalid partition specified: moon" in done.stderr
    assert "Traceback" not in done.stderr
    assert not runs.exists()
    assert sweep.run().returncode == 1
    assert [(state, attempts) for state, attempts, _ in states(sweep.folder)] == [("complete", 1), ("failed", 1)]


def test_no_further_trial_begins_once_enough_have_failed(stand_in: Callable[..., Any], runs: Path) -> None:
    sweep = stand_in("seed=1,10,11,12", "hydra.launcher.array_parallelism=1")
    assert sweep.run("hydra.sweeper.max_failures=1").returncode == 1
    assert runs.read_text().split()[::3] in (["0"], ["0", "1"])  # the next one may have begun when this is seen
    assert sweep.run().returncode == 1
    assert [state for state, _, _ in states(sweep.folder)] == ["failed", "complete", "complete", "complete"]
    assert sorted(runs.read_text().split()[::3]) == ["0", "1", "2", "3"]


def test_a_search_submits_as_many_as_run_together(stand_in: Callable[..., Any]) -> None:
    words = ("hydra/sweeper=bayes", "hydra.sweeper.n_trials=3", "seed=range(10,90)")
    done = stand_in(*words, "hydra.launcher.array_parallelism=2").run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("submitted job") == 2
    assert "for trials 0, 1\n" in done.stdout
    assert "for trial 2\n" in done.stdout
