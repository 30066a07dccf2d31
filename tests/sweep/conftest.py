"""The real command with a job that takes no time: what graft.pipeline.run would do, without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Python imports it at start, in the processes that a launcher starts too. STAND_IN_LOG gets a line for each run that
# began and one for each that ended; the seed says how a run ends.
STAND_IN = """
import json, math, os, signal, sys, time, types

def log(*words):
    with open(os.environ["STAND_IN_LOG"], "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")

def run(config, folder, overrides, signals=None, watcher=None, inputs=None):
    from graft.config.faults import InputError, RunFailed
    rate = config.optimizer.lr
    log("begin", folder.name, rate, os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")))
    if config.seed == 1:
        raise RunFailed("the loss is not finite")
    if config.seed == 2:
        raise InputError("no images")
    if config.seed == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.seed == 4:
        time.sleep(600)
    if config.seed == 5 and not (folder / "checkpoint").exists():
        (folder / "checkpoint").touch()
        raise RunFailed("only the second attempt succeeds")
    if config.seed == 6:
        raise MemoryError("no memory is left")
    if config.seed == 7:
        from graft.sweep.job import check_varied
        check_varied([f"optimizer.lr={rate}"])  # as where the head is solved
    loss = (math.log10(rate) + 3) ** 2 + 0.1 * config.seed
    metrics = {"val/loss": loss, "val/accuracy": 1 - loss / 10, "parameters": round(1e6 * rate), "nan": math.nan}
    for epoch in range(config.trainer.max_epochs):
        if watcher is not None and watcher.should_stop(epoch, {"val/loss": loss + 1 / (epoch + 1)}):
            metrics["pruned"] = True
            break
    (folder / "metrics.json").write_text(json.dumps(metrics))
    log("end", folder.name, rate)
    return loss

sys.modules["graft.pipeline.run"] = types.SimpleNamespace(run=run)
sys.modules["graft.pipeline.inputs"] = types.SimpleNamespace(shared_inputs=lambda: None)
"""

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The lines that the stand-in has logged."""
    return tmp_path / "runs.log"


@pytest.fixture
def environment(tmp_path: Path, runs: Path) -> dict[str, str]:
    """In which `python train.py` runs the stand-in."""
    place = tmp_path / "stand_in"
    place.mkdir()
    (place / "sitecustomize.py").write_text(STAND_IN)
    paths = [str(place), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "STAND_IN_LOG": str(runs)}


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[str]]:
    """command("optimizer.lr=1,2") is the sweep's command; its folder is tmp_path/sweep."""
    return lambda *words: [sys.executable, "train.py", "-m", *words, f"hydra.sweep.dir={tmp_path}/sweep"]


@pytest.fixture
def sweep(command: Callable[..., list[str]], environment: dict[str, str]) -> Command:
    """Runs a sweep's command to its end."""

    def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*words), cwd=ROOT, env={**environment, **env}, capture_output=True, text=True, timeout=300,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return run
