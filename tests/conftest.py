"""What every test shares: few threads beside other test processes, and the real command in a process of its own."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # read by torch when it is first imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """A test draws the same numbers alone, in any order and in any process, also where a library draws for it."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
    if keras := sys.modules.get("keras"):
        keras.utils.set_random_seed(0)


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
def images(tmp_path: Path, write_images: Callable[[Path], Path]) -> Path:
    """A folder dataset that a network can learn: horizontal against vertical stripes, 12 + 6 + 6 images a class."""
    return write_images(tmp_path / "images")


@pytest.fixture(scope="session")
def write_images() -> Callable[[Path], Path]:
    """Writes the dataset of `images`."""
    return _write_images


def _write_images(root: Path) -> Path:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
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


@pytest.fixture(scope="session")
def run_here() -> Callable[..., float | None]:
    """run_here(folder, "seed=1", …, watcher=…) is `python train.py seed=1 hydra.run.dir=folder` in this process, with a
    network of 350,000 weights on 32 pixels, all of which trains from random values in float32 on the CPU.
    """
    return _run_here


def _run_here(folder: Path, *words: str, **given: Any) -> float | None:
    from hydra import compose, initialize_config_dir

    from graft.config.compose import parse, register
    from graft.pipeline.run import run

    tiny = [
        "backbone=timm", "backbone.name=test_efficientnet", "donor=none", "freeze=none", "data=folder",
        "data.image_size=32", "data.batch_size=8", "cache=none", "trainer.engine=false", "trainer.accelerator=cpu",
        "trainer.progress=false", "trainer.max_epochs=1", "trainer.precision=32-true",
    ]  # fmt: skip
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = parse(compose("config", [*tiny, *words]))
    return run(config, folder, list(words), **given)
