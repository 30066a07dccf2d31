"""Images told apart by their brightest channel, a tiny donor, and the words of a run on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image

from benchmarks.composed import composed
from graft.pipeline.run import run

BACKBONE = "test_efficientnet"
COLOURS = ("red", "green", "blue")


def write_images_and_donor(place: Path, *, images: int, brighter: int) -> None:
    """Of each part so many images, one channel of each brighter by so many grey levels, and donor.pth."""
    rng = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for name in COLOURS:
            (place / "images" / part / name).mkdir(parents=True)
        for number in range(images):
            pixels = rng.integers(0, 200, (36, 36, 3))
            pixels[:, :, number % 3] += brighter
            target = place / "images" / part / COLOURS[number % 3] / f"{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(target)
    torch.manual_seed(0)
    donor = timm.create_model(BACKBONE, num_classes=5)
    for layer in donor.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # statistics of what it sees here
    with torch.no_grad():
        donor.train()(torch.randn(32, 3, 32, 32))
    torch.save(donor.state_dict(), place / "donor.pth")


def words(folder: Path, place: Path, *more: str) -> list[str]:
    return [
        "backbone=timm", f"backbone.name={BACKBONE}", "donor=file", f"donor.path={folder / 'donor.pth'}",
        "data=folder", f"data.root={folder / 'images'}", "data.image_size=32", "data.num_workers=0",
        "trainer.accelerator=cpu", "trainer.progress=false", f"cache.dir={place / 'cache'}", *more,
    ]  # fmt: skip


def carried_out(folder: Path, place: Path, *more: str) -> dict[str, Any]:
    """The run's metrics.json; its folder is `run` in the place."""
    overrides = words(folder, place, *more)
    run(composed(*overrides), place / "run", overrides)
    return json.loads((place / "run" / "metrics.json").read_text())
