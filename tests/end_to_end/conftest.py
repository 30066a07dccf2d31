"""Real commands, as a user types them, on small real input."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
Train = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """An empty torch hub cache of the test's own."""
    checkpoints = tmp_path / "torch-home" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


@pytest.fixture
def train(tmp_path: Path, hub: Path) -> Train:
    """Runs `python train.py …` in the repository; the run's folder is tmp_path/run unless the test names one."""

    def command(
        *overrides: str, timeout: float = 240, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        folder = () if any(o.startswith("hydra.") for o in overrides) else (f"hydra.run.dir={tmp_path / 'run'}",)
        return subprocess.run(
            [sys.executable, "train.py", *overrides, *folder],
            cwd=REPOSITORY,
            env={**os.environ, "TORCH_HOME": str(hub.parents[1]), "HF_HUB_OFFLINE": "1", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

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
