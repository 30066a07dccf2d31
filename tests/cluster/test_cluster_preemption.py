"""Preempted on a real SLURM, a training ends with the bits of one that was left in peace."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from graft.sweep.study import read_study

pytestmark = pytest.mark.slurm

Train = Callable[..., "subprocess.CompletedProcess[str]"]
RUN = (
    "backbone=timm", "backbone.name=test_resnet.r160_in1k", "donor=none", "freeze=none", "data=folder",
    "data.image_size=32", "data.batch_size=4", "data.num_workers=1", "trainer.threads=1", "checkpoint.every_n_steps=1",
)  # fmt: skip
FIGURES = ("val/loss", "val/accuracy", "test/loss", "steps", "epochs")


def assert_same(folder: Path, undisturbed: Path) -> None:
    one, other = (load_file(place / "model" / "model.safetensors") for place in (folder, undisturbed))
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not value.equal(other[name])] == []
    ours, theirs = (json.loads((place / "metrics.json").read_text()) for place in (folder, undisturbed))
    assert [ours[name] for name in FIGURES] == [theirs[name] for name in FIGURES]


def trains(folder: Path) -> bool:
    return (folder / "checkpoints" / "previous.ckpt").exists()


def test_of_three_one_fails_one_is_cancelled_and_one_requeued_ends_with_the_same_bits(
    real: Callable[..., Any], train: Train, ask: Callable[..., str], images: Path, tmp_path: Path
) -> None:
    words = (*RUN, "trainer=cpu", "trainer.max_epochs=30", f"data.root={images}")
    sweep = real(*words, "optimizer.lr=1e-3,1e-4,1e30")
    process = sweep.start()
    sweep.until(lambda: trains(sweep.folder / "0"))
    ask("scontrol", "requeue", sweep.job(0))
    sweep.until(lambda: trains(sweep.folder / "1"))
    ask("scancel", sweep.job(1))
    out, err = process.communicate(timeout=500)
    assert process.returncode == 1, out + err
    study = read_study(sweep.folder)
    assert [trial.state for trial in study.trials] == ["complete", "failed", "failed"], out + sweep.seen()
    assert study.trials[1].reason == f"its job {sweep.job(1)} was cancelled"
    assert study.trials[2].reason.startswith("the gradients of every group became NaN or infinite")
    assert "stopped by SIGTERM after step" in (sweep.folder / "0" / "errors.log").read_text()
    assert train(*words, "optimizer.lr=1e-3", f"hydra.run.dir={tmp_path / 'run'}").returncode == 0
    assert_same(sweep.folder / "0", tmp_path / "run")


@pytest.mark.parametrize("how", ["preempted", "its time is up"])
def test_two_processes_agree_to_stop_and_end_with_the_same_bits(
    real: Callable[..., Any], train: Train, ask: Callable[..., str], images: Path, tmp_path: Path, how: str
) -> None:
    words = (*RUN, "trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=20", f"data.root={images}")
    sweep = real(*words)
    process = sweep.start()
    sweep.until(lambda: trains(sweep.folder / "0"))
    if how == "preempted":
        ask("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    else:
        ask("scancel", "--signal=USR2", sweep.job(0))
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, out + err + sweep.seen()
    signal = "SIGTERM" if how == "preempted" else "SIGUSR2"
    assert f"stopped by {signal} after step" in (sweep.folder / "0" / "errors.log").read_text()
    assert train(*words, f"hydra.run.dir={tmp_path / 'run'}").returncode == 0
    assert_same(sweep.folder / "0", tmp_path / "run")
