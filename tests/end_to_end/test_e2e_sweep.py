"""Sweeps of real trainings: killed again and again, and with trials of two processes each."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch

from graft.sweep.record import StudyRecord
from graft.sweep.study import read_study

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BACKBONE = "test_resnet.r160_in1k"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1"}


def words(images: Path, place: Path, epochs: int) -> list[str]:
    """A small job: the head is trained on generated stripes."""
    torch.manual_seed(0)
    torch.save(timm.create_model(BACKBONE, num_classes=2).state_dict(), place / "donor.pth")
    return [
        "backbone=timm", f"backbone.name={BACKBONE}", "donor=file", f"donor.path={place / 'donor.pth'}",
        "freeze=backbone", "head.solver=sgd", "data=folder", f"data.root={images}", "data.image_size=32",
        "data.batch_size=2",
        "trainer.accelerator=cpu", f"trainer.max_epochs={epochs}", f"cache.dir={place / 'cache'}",
    ]  # fmt: skip


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "train.py", "-m", *more, f"hydra.sweep.dir={folder}"]


def finish(command: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    return done


def kill(command: list[str], sign: Path, seconds: float) -> None:
    """SIGKILL, so long after the sign of life is there."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    until = time.monotonic() + 240
    while not sign.exists():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < until, f"{sign} did not come"
        time.sleep(0.01)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ended(study: StudyRecord) -> dict[int, int]:
    """When each complete trial's figures were written."""
    return {trial.number: (trial.folder / "metrics.json").stat().st_mtime_ns for trial in study.complete}


def test_killed_three_times_a_real_sweep_ends_as_undisturbed_and_repeats_nothing(images: Path, tmp_path: Path) -> None:
    job = [*words(images, tmp_path, 12), "optimizer.lr=1e-3,1e-2,3e-2,1e-1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(command(whole, *job))
    expected = read_study(whole)
    assert len({trial.values for trial in expected.complete}) == 4
    chance = random.Random(0)
    seen: dict[int, int] = {}
    for trial in range(3):
        kill(command(killed, *job), killed / str(trial) / "metrics.csv", 0.8 * chance.random())
        seen |= ended(read_study(killed))
    finish(command(killed, *job))
    study = read_study(killed)
    assert [trial.state for trial in study.trials] == ["complete"] * 4
    assert [trial.values for trial in study.trials] == [trial.values for trial in expected.trials]
    assert [trial.number for trial in study.best] == [trial.number for trial in expected.best]
    assert sum(trial.attempts for trial in study.trials) <= 4 + 3
    assert sum(trial.attempts > 1 for trial in study.trials) >= 1
    now = ended(study)
    assert {number: now[number] for number in seen} == seen  # what was complete has not been run again


def test_workers_that_stay_come_to_what_one_process_comes_to(images: Path, tmp_path: Path) -> None:
    job = [*words(images, tmp_path, 4), "optimizer.lr=1e-3,1e-2,3e-2,1e-1", "head=linear,mlp", "trainer.threads=1"]
    finish(command(tmp_path / "alone", *job, "hydra/launcher=basic"))
    finish(command(tmp_path / "workers", *job, "hydra/launcher=workers", "hydra.launcher.n_jobs=2"))
    alone, workers = read_study(tmp_path / "alone"), read_study(tmp_path / "workers")
    assert [trial.values for trial in workers.trials] == [trial.values for trial in alone.trials]
    assert len({trial.values for trial in workers.complete}) == 8
    for number in range(8):
        models = [(tmp_path / name / str(number) / "model" / "model.safetensors") for name in ("alone", "workers")]
        assert models[0].read_bytes() == models[1].read_bytes()
    # Two of the eight imported torch, and so began with what that takes.
    seconds = [json.loads((trial.folder / "metrics.json").read_text())["seconds"] for trial in workers.trials]
    assert sum("import" in each for each in seconds) == 2


def test_trials_of_two_processes_run_within_a_sweep_and_leave_together(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    sweep = [
        *("hydra/launcher=process", "trainer=ddp", "trainer.devices=2", "optimizer.lr=3e-2,1e-12"),
        *("hydra.sweeper.pruner=median", "hydra.sweeper.pruner_options={n_startup_trials: 1}"),
    ]
    done = finish(command(folder, *words(images, tmp_path, 3), *sweep))
    study = read_study(folder)
    assert [(trial.state, len(trial.steps)) for trial in study.trials] == [("complete", 3), ("pruned", 1)]
    assert "2 trials: 1 complete, 1 pruned" in done.stdout
    said = (folder / "0" / "output.log").read_text()
    assert said.count(f"run: {folder / '0'}") == 1  # one of the two speaks
    assert "epoch 2/3" not in (folder / "1" / "errors.log").read_text()
    left = [entry for entry in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in _read(entry)]
    assert left == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has just ended
        return b""
