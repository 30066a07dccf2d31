"""What every test shares: few threads beside other test processes, and the real command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # read by torch when it is first imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture
def train() -> Command:
    """train("seed=1", timeout=60, env={…}) runs `python train.py seed=1` from the repository's root, as users do."""

    def run(*words: str, timeout: float = 300, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "train.py", *words],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder dataset that a network can learn: horizontal against vertical stripes, 12 + 6 images a class."""
    import numpy as np
    from PIL import Image

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


@pytest.fixture
def no_bfloat16_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any machine is one without units for bfloat16."""
    import torch

    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
