"""Real commands, as a user types them, on small real input."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder dataset that a network can learn: horizontal against vertical stripes, 12 + 6 images a class."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for part, count in (("train", 12), ("val", 6), ("test", 6)):
        for name in ("across", "down"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                stripes = np.where(np.arange(48) // int(rng.integers(3, 6)) % 2, 220, 30)
                picture = np.repeat(stripes[:, None], 48, axis=1) + rng.integers(-20, 20, (48, 48))
                picture = picture if name == "across" else picture.T
                Image.fromarray(picture.clip(0, 255).astype(np.uint8)).convert("RGB").save(folder / f"{number}.png")
    return root
