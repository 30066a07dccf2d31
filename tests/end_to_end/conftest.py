"""Real commands, as a user types them, on small real input."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Train = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """An empty torch hub cache of the test's own."""
    checkpoints = tmp_path / "torch-home" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


@pytest.fixture
def train(train: Train, tmp_path: Path, hub: Path) -> Train:
    """The same command without a network to be had; the run's folder is tmp_path/run unless the test names one."""

    def command(*words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        folder = () if any(word.startswith("hydra.") for word in words) else (f"hydra.run.dir={tmp_path / 'run'}",)
        offline = {"TORCH_HOME": str(hub.parents[1]), "HF_HUB_OFFLINE": "1"}
        return train(*words, *folder, timeout=timeout, env=offline)

    return command
