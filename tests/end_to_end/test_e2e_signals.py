"""Signals to the real command: where it stands, what to type to go on, and nothing left behind."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
HANGS = 240  # seconds after which something hangs rather than waits for a core
SMALL = (
    "backbone=timm", "backbone.name=test_resnet.r160_in1k", "donor=none", "freeze=none", "data=folder",
    "data.image_size=32", "data.batch_size=4", "data.num_workers=2", "trainer=cpu", "trainer.max_epochs=40",
)  # fmt: skip


class Started:
    """The command in a process of its own."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "train.py", *words], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip

    def until(self, there: Callable[[], object]) -> None:
        deadline = time.monotonic() + HANGS
        while not there():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def children(self) -> list[int]:
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(number) for number in found.split()]

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=HANGS)
        return self.process.returncode, out, err


def alive(number: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_a_signal_stops_it_and_the_command_that_it_names_goes_on(images: Path, tmp_path: Path):
    folder = tmp_path / "a run, stopped"
    run = Started(*SMALL, f"data.root={images}", f"hydra.run.dir='{folder}'")
    run.until((folder / "metrics.csv").exists)
    workers = run.children()
    assert len(workers) >= 2
    run.process.send_signal(signal.SIGTERM)
    code, _, err = run.end()
    assert code == 143, err
    assert "stopped by SIGTERM after step" in err
    assert f"{folder}/checkpoints/last.ckpt holds everything up to here; go on with" in err
    assert "Traceback" not in err
    assert not any(alive(worker) for worker in workers)
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    words = shlex.split(err.splitlines()[-1])
    assert words[:2] == ["python", "train.py"]
    again = Started(*words[2:], "trainer.max_epochs=40")
    code, _, err = again.end()
    assert code == 0, err
    behind = saved["graft"]["position"][0]  # whole epochs
    said = [line.split()[1] for line in err.splitlines() if line.startswith("epoch ")]
    assert said == [f"{epoch + 1}/40" for epoch in range(behind, 40)]
    assert json.loads((folder / "metrics.json").read_text())["epochs"] == 40


def test_a_second_interrupt_ends_it_at_once(images: Path, tmp_path: Path):
    folder = tmp_path / "run"
    run = Started(*SMALL, f"data.root={images}", f"hydra.run.dir={folder}", "checkpoint.every_n_steps=1")
    run.until((folder / "checkpoints" / "previous.ckpt").exists)
    workers = run.children()
    run.process.send_signal(signal.SIGINT)
    run.process.send_signal(signal.SIGINT)
    assert run.end()[0] in (-signal.SIGINT, 130)  # the second may come when the first has been obeyed
    torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    deadline = time.monotonic() + 15  # a worker looks for its parent every five seconds
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(alive(worker) for worker in workers)


def test_a_signal_while_features_are_computed_leaves_no_half_of_them(tmp_path: Path):
    cache = tmp_path / "cache"
    run = Started(f"cache.dir={cache}", f"hydra.run.dir={tmp_path / 'run'}", "data.image_size=128")
    run.until(lambda: list(cache.glob("*.partial")))
    run.process.send_signal(signal.SIGUSR1)
    code, _, err = run.end()
    assert code == 128 + signal.SIGUSR1, err
    assert "stopped by SIGUSR1; nothing had been trained yet; go on with" in err
    assert [path.name for path in cache.iterdir() if path.suffix in (".partial", ".graft")] == []
