"""A real SLURM of one node, and a job that takes no time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graft.cluster.record import JOB_FILE, read_record

ROOT = Path(__file__).resolve().parents[2]

# Python imports it at start, in the jobs too. STAND_IN_LOG gets a line for each run that began; the seed says how it
# goes on.
STAND_IN = """
import json, os, signal, sys, time, types

def run(config, folder, overrides, signals=None, watcher=None, inputs=None):
    from graft.config.faults import RunFailed
    with open(os.environ["STAND_IN_LOG"], "a") as file:
        file.write(f"{folder.name} {os.environ.get('SETUP_SAID')} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
    begun = (folder / "begun").exists()
    (folder / "begun").touch()
    if config.seed == 1:
        raise RunFailed("the loss is not finite")
    if config.seed == 2 and not begun:
        time.sleep(600)
    if config.seed == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.seed == 4:
        time.sleep(600)
    (folder / "metrics.json").write_text(json.dumps({"val/loss": config.seed}))

sys.modules["graft.pipeline.run"] = types.SimpleNamespace(run=run)
sys.modules["graft.pipeline.inputs"] = types.SimpleNamespace(shared_inputs=lambda: None)
"""


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One that runs already (SLURM_CONF), else one for these tests."""
    if "SLURM_CONF" in os.environ and shutil.which("sinfo"):
        yield
        return
    place = tmp_path_factory.mktemp("slurm")
    os.environ["LOCAL_SLURM"] = str(place)
    script = ROOT / "scripts" / "local_slurm.sh"
    started = subprocess.run(["bash", script, "start"], capture_output=True, text=True, timeout=500, check=False)
    if started.returncode:
        pytest.skip(f"no SLURM can be had here: {started.stderr.strip().splitlines()[-1]}")
    os.environ["SLURM_CONF"] = started.stdout.strip().removeprefix("export SLURM_CONF=")
    yield
    subprocess.run(["bash", script, "stop"], capture_output=True, timeout=100, check=True)
    del os.environ["SLURM_CONF"], os.environ["LOCAL_SLURM"]


class Sweep:
    """A sweep's command on SLURM, in a process of its own, and what can be seen of it."""

    def __init__(self, folder: Path, words: list[str], env: dict[str, str]) -> None:
        self.folder = folder
        self.command = [
            sys.executable, "train.py", "-m", "hydra/launcher=slurm", *words, f"hydra.sweep.dir={folder}",
        ]  # fmt: skip
        self.env = {**os.environ, **env}
        self.process: subprocess.Popen[str] | None = None

    def start(self, *words: str) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            [*self.command, *words], cwd=ROOT, env=self.env, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        return self.process

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=400)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def job(self, trial: int) -> str:
        """SLURM's id of a trial's job."""
        folder = self.folder / str(trial)
        self.until((folder / JOB_FILE).exists)
        record = read_record(folder)
        assert record is not None
        return record.job

    def until(self, there: Callable[[], object], seconds: float = 200) -> None:
        deadline = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < deadline, self.seen()
            assert self.process is not None
            assert self.process.poll() != 2, self.process.communicate()[1]
            time.sleep(0.1)

    def seen(self) -> str:
        files = sorted(self.folder.glob("*/*.log")) + sorted(self.folder.glob("slurm/*log.*"))
        logs = [f"{file}: {file.read_text()[-500:]}" for file in files]
        return "\n".join([command("squeue", "--states=all", "--array"), *logs])


def command(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@pytest.fixture
def ask(slurm: None) -> Callable[..., str]:
    """ask("scancel", "12") runs one of SLURM's programs and returns what it printed."""
    return command


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The lines that the stand-in has logged."""
    return tmp_path / "runs.log"


@pytest.fixture
def stand_in(slurm: None, tmp_path: Path, runs: Path) -> Callable[..., Sweep]:
    """stand_in("seed=0,1") is a sweep whose jobs take no time; its folder is tmp_path/sweep."""
    place = tmp_path / "stand_in"
    place.mkdir()
    (place / "sitecustomize.py").write_text(STAND_IN)
    path = os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH", "")]))
    env = {"PYTHONPATH": path, "STAND_IN_LOG": str(runs)}
    return lambda *words: Sweep(tmp_path / "sweep", list(words), env)


@pytest.fixture
def real(slurm: None, tmp_path: Path) -> Callable[..., Sweep]:
    """real("seed=0,1") is a sweep of graft's own runs; its folder is tmp_path/sweep."""
    return lambda *words: Sweep(tmp_path / "sweep", list(words), {"HF_HUB_OFFLINE": "1"})
