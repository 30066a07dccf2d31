"""`python train.py -m …` with a stand-in for the job: exit codes, reasons, launchers, the same command again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.sweep.study import read_study

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_grid_in_one_process_tells_its_failures_and_goes_on_as_the_same_command(
    sweep: Command, runs: Path, tmp_path: Path
) -> None:
    done = sweep("optimizer.lr=1e-3,1e-4", "seed=0,6")
    assert done.returncode == 1, done.stderr
    assert "2 of 4 trials failed:" in done.stderr
    assert "      1  optimizer.lr=0.001 seed=6   MemoryError: no memory is left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "best      trial 0 (val/loss 0): optimizer.lr=0.001 seed=0" in done.stdout
    told = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert told["command"][:4] == ["python", "train.py", "-m", "optimizer.lr=1e-3,1e-4"]
    assert (tmp_path / "sweep" / "sweep.html").exists()
    study = read_study(tmp_path / "sweep")
    assert [trial.values for trial in study.complete] == [(0.0,), (1.0,)]
    assert study.complete[1].metrics == {"val/loss": 1.0, "val/accuracy": 0.9, "parameters": 100.0}
    assert len({line.split()[3] for line in runs.read_text().splitlines() if line.startswith("begin")}) == 1


def test_trials_lie_in_the_folder_that_is_named_after_the_sweep(
    environment: dict[str, str], runs: Path, tmp_path: Path, root: Path
) -> None:
    command = [sys.executable, str(root / "train.py"), "-m", "head.solver=sgd", "optimizer.lr=1e-3,1e-4"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert [trial.state for trial in read_study(folder).trials] == ["complete", "complete"]
    assert {path.parent.name for path in folder.glob("*/metrics.json")} == {"0", "1"}


@pytest.mark.slow
def test_processes_of_their_own_are_killed_run_out_of_time_and_cost_one_trial(
    sweep: Command, runs: Path, tmp_path: Path
) -> None:
    limit = ("hydra/launcher=process", "hydra.launcher.n_jobs=3", "hydra.launcher.timeout_min=1")
    done = sweep(*limit, "optimizer.lr=1e-3", "seed=0,3,4")
    assert done.returncode == 1, done.stderr
    study = read_study(tmp_path / "sweep")
    assert [(trial.state, trial.reason) for trial in study.trials] == [
        ("complete", ""),
        ("failed", "its process was killed by SIGKILL: out of memory, or by hand"),
        ("failed", "it took longer than hydra.launcher.timeout_min=1"),
    ]
    assert len({line.split()[3] for line in runs.read_text().splitlines() if line.startswith("begin")}) == 3


@pytest.mark.slow
def test_workers_stay_for_further_trials_and_a_crash_costs_one(sweep: Command, runs: Path, tmp_path: Path) -> None:
    limit = ("hydra/launcher=workers", "hydra.launcher.n_jobs=2", "hydra.launcher.timeout_min=0.1")
    done = sweep(*limit, "optimizer.lr=1e-3", "seed=10,3,1,4,11,12,13,14", STAND_IN_SECONDS="0.2")
    assert done.returncode == 1, done.stderr
    study = read_study(tmp_path / "sweep")
    assert [(trial.state, trial.reason) for trial in study.trials] == [
        ("complete", ""),
        ("failed", "its process was killed by SIGKILL: out of memory, or by hand"),
        ("failed", "the loss is not finite"),
        ("failed", "it took longer than hydra.launcher.timeout_min=0.1"),
        *[("complete", "")] * 4,
    ]  # fmt: skip
    began = [line.split() for line in runs.read_text().splitlines() if line.startswith("begin")]
    assert len(began) == 8
    processes = {number: process for _, number, _, process, *_ in began}
    assert 3 <= len(set(processes.values())) <= 5, "two, and one for each that died or failed"
    assert len({processes[number] for number in "4567"}) <= 2
    assert (tmp_path / "sweep" / "2" / "errors.log").read_text() == "the loss is not finite\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("hydra/sweeper=bayes", "hydra.sweeper.n_trials=0", "seed=1,2"), "hydra.sweeper.n_trials: expected"),
        pytest.param(("hydra/launcher=gpus",), "hydra/launcher=gpus: expected a GPU", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_sweep_that_cannot_begin_ends_with_2(sweep: Command, runs: Path, words: tuple[str, ...], said: str) -> None:
    done = sweep(*words, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr.startswith(said)
    assert not runs.exists()


@pytest.mark.slow
def test_each_process_sees_one_device_and_the_others_wait(sweep: Command, runs: Path) -> None:
    done = sweep("hydra/launcher=gpus", "hydra.launcher.devices=[4,7]", "seed=range(10,16)", STAND_IN_SECONDS="0.5")
    assert done.returncode == 0, done.stderr
    seen: list[str] = []
    for line in runs.read_text().splitlines():
        word, number, *_, device = line.split()
        if word == "begin":
            assert device not in seen
            seen.append(device)
            owner = {number: device}
        else:
            seen.remove(next(began.split()[4] for began in runs.read_text().splitlines() if began.split()[1] == number))
    assert owner.keys() <= {str(trial) for trial in range(6)}
    devices = [line.split()[4] for line in runs.read_text().splitlines() if line.startswith("begin")]
    assert set(devices) == {"4", "7"}
    assert len(devices) == 6


@pytest.mark.slow
def test_a_pruner_stops_what_promises_little(sweep: Command, tmp_path: Path) -> None:
    pruner = ("hydra.sweeper.pruner=median", "hydra.sweeper.pruner_options={n_startup_trials: 2}")
    done = sweep(*pruner, "optimizer.lr=1e-3,2e-3,1e-2,1e-5", "trainer.max_epochs=3")
    assert done.returncode == 0, done.stderr
    study = read_study(tmp_path / "sweep")
    assert [trial.state for trial in study.trials] == ["complete", "complete", "pruned", "pruned"]
    assert [sorted(trial.steps) for trial in study.trials] == [[0, 1, 2], [0, 1, 2], [0], [0]]
    assert study.trials[2].values == (2.0,)


@pytest.mark.slow
def test_killed_amid_a_process_the_command_goes_on(
    command: Callable[..., list[str]],
    environment: dict[str, str],
    sweep: Command,
    runs: Path,
    root: Path,
    tmp_path: Path,
) -> None:
    words = ("hydra/sweeper=bayes", "hydra.sweeper.n_trials=4", "optimizer.lr=tag(log, interval(1e-5, 1e-2))")
    words += ("hydra/launcher=process",)
    env = {**environment, "STAND_IN_SECONDS": "2"}
    process = subprocess.Popen(command(*words), cwd=root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not runs.exists() or "begin 1" not in runs.read_text():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = sweep(*words)
    assert done.returncode == 0, done.stderr
    study = read_study(tmp_path / "sweep")
    assert [(trial.state, trial.attempts) for trial in study.trials] == [
        ("complete", 1), ("complete", 2), ("complete", 1), ("complete", 1)
    ]  # fmt: skip
    ends = [line.split()[1] for line in runs.read_text().splitlines() if line.startswith("end")]
    assert sorted(ends) == ["0", "1", "2", "3"]  # the killed sweep's process did not live on


@pytest.mark.slow
def test_a_plan_of_a_grid_is_no_trial(sweep: Command, tmp_path: Path, runs: Path) -> None:
    done = sweep("mode=plan", "seed=10,11")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "sweep" / "sweep.json").exists()
    assert runs.read_text().count("end") == 2


@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=workers", "hydra.launcher.n_jobs=1")])
def test_a_sweep_of_nothing_but_idle_keys_is_refused_at_its_first_trial(
    sweep: Command, runs: Path, tmp_path: Path, launcher: tuple[str, ...]
) -> None:
    done = sweep(*launcher, "optimizer.lr=1e-3,1e-4,1e-5", "seed=7")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("-m: expected a key that changes the trials, received optimizer.lr, which a solved") == 1
    assert "head.solver=sgd" in done.stderr
    lines = runs.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["begin"], "no further trial begins"


def test_a_sweep_that_varies_another_key_too_goes_on(sweep: Command, runs: Path) -> None:
    done = sweep("optimizer.lr=1e-3,1e-4", "seed=7,8")
    assert done.returncode == 0, done.stderr
    assert len([line for line in runs.read_text().splitlines() if line.startswith("end")]) == 4
