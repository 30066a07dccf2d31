"""Several machines, as two of torchrun's agents on one: what they train, who writes, and what a lost process does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BACKBONE = "test_resnet.r160_in1k"


def words(images: Path, place: Path, epochs: int) -> list[str]:
    torch.manual_seed(0)
    torch.save(timm.create_model(BACKBONE, num_classes=2).state_dict(), place / "donor.pth")
    return [
        "backbone=timm", f"backbone.name={BACKBONE}", "donor=file", f"donor.path={place / 'donor.pth'}",
        "freeze=stem", "data=folder", f"data.root={images}", "data.image_size=32", "data.batch_size=2",
        "cache=none", "trainer=ddp", "trainer.accelerator=cpu", f"trainer.max_epochs={epochs}",
    ]  # fmt: skip


def agents(folder: Path, words: list[str], *, nodes: int, each: int) -> list[subprocess.Popen[str]]:
    """torchrun on every node."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torchrun = [
        *(sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={each}"),
        *("--master-addr=127.0.0.1", f"--master-port={port}"),
    ]
    job = [*words, f"trainer.devices={each}", f"trainer.num_nodes={nodes}", f"hydra.run.dir={folder}"]
    return [start([*torchrun, f"--node-rank={rank}", "train.py", *job]) for rank in range(nodes)]


def start(command: list[str]) -> subprocess.Popen[str]:
    """With one thread each, which torchrun sets of itself only where it starts several: bits depend on their number."""
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def ends(agents: list[subprocess.Popen[str]], seconds: float) -> list[tuple[int, str, str]]:
    try:
        said = [agent.communicate(timeout=seconds) for agent in agents]
    finally:
        for agent in agents:
            if agent.poll() is None:
                os.killpg(agent.pid, signal.SIGKILL)
    return [(agent.returncode, *words) for agent, words in zip(agents, said, strict=True)]


def test_two_nodes_of_one_process_train_what_one_node_of_two_does(images: Path, tmp_path: Path) -> None:
    job = words(images, tmp_path, 2)
    ((code, _, errors),) = ends(agents(tmp_path / "one", job, nodes=1, each=2), 300)
    assert code == 0, errors
    first, second = ends(agents(tmp_path / "two", job, nodes=2, each=1), 300)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert first[1].count(f"run: {tmp_path / 'two'}") == 1
    assert second[1] == ""  # the second node says nothing and writes nothing
    assert first[2].count("epoch 1/2") == 1
    assert "epoch" not in second[2]
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert metrics["frozen_verified"] is True
    assert metrics["steps"] == 2 * 6  # 24 images, 2 a process and step
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert all(value.equal(other[name]) for name, value in one.items())


@pytest.mark.parametrize("by", ["torchrun", "lightning"])
def test_a_lost_process_ends_the_job_on_every_node_within_a_minute(images: Path, tmp_path: Path, by: str) -> None:
    folder = tmp_path / "run"
    job = words(images, tmp_path, 2000)
    if by == "torchrun":
        started = agents(folder, job, nodes=2, each=1)
    else:
        started = [start([sys.executable, "train.py", *job, f"hydra.run.dir={folder}"])]
    until = time.monotonic() + 240
    while not (folder / "checkpoints" / "last.ckpt").exists():  # metrics.csv comes a moment before it
        assert all(process.poll() is None for process in started), ends(started, 1)
        assert time.monotonic() < until
        time.sleep(0.1)
    (worker,) = Path(f"/proc/{started[-1].pid}/task/{started[-1].pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    began = time.monotonic()
    said = ends(started, 100)
    assert time.monotonic() - began < 60
    assert all(code != 0 for code, _, _ in said)
    assert "another process of this run was lost" in said[0][2]
    assert "last.ckpt holds everything" in said[0][2]
