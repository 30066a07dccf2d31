"""Two processes as users start them: by trainer=ddp in a single run, and by torchrun."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

Train = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]
BACKBONE = "test_resnet.r160_in1k"


def test_both_ways_train_alike_and_speak_once(train: Train, images: Path, tmp_path: Path):
    torch.manual_seed(0)
    torch.save(timm.create_model(BACKBONE, num_classes=2).state_dict(), tmp_path / "donor.pth")
    words = [
        "backbone=timm", f"backbone.name={BACKBONE}", "donor=file", f"donor.path={tmp_path / 'donor.pth'}",
        "freeze=backbone", "unfreeze=gradual", "unfreeze.start='2 steps'", "unfreeze.every='2 steps'", "data=folder",
        f"data.root={images}", "data.image_size=32", "data.batch_size=2", "cache=none", "trainer=ddp",
        "trainer.accelerator=cpu", "trainer.max_epochs=2",
    ]  # fmt: skip
    lightning = train(*words, f"hydra.run.dir={tmp_path / 'lightning'}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torchrun = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}", "train.py",
         *words, f"hydra.run.dir={tmp_path / 'torchrun'}"],
        cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    for done, name in ((lightning, "lightning"), (torchrun, "torchrun")):
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"run: {tmp_path / name}") == 1
        assert done.stderr.count("epoch 1/2") == 1
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        assert metrics["frozen_verified"] is True
        assert metrics["steps"] == 2 * 6  # 24 images, 2 a process and step
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("lightning", "torchrun"))
    assert all(value.equal(other[name]) for name, value in one.items())
