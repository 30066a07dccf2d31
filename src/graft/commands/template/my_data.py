"""A list of images with their labels. Images of circles and squares are drawn where the folder does not exist."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw


def rows(folder: str = "images") -> Iterator[dict[str, str]]:
    """For each image its path and label; a third entry, split (train, val or test), may say its part."""
    if not Path(folder).exists():
        draw(Path(folder))
    for path in sorted(Path(folder).rglob("*.png")):
        yield {"path": str(path.absolute()), "label": path.parent.name}


def draw(folder: Path, count: int = 40) -> None:
    for number in range(2 * count):
        label = ("circle", "square")[number % 2]
        image = Image.new("RGB", (40, 40), "white")
        left, top, size = (random.Random(3 * number + value).randint(*ends) for value, ends in enumerate(RANGES))
        shape = ImageDraw.Draw(image).ellipse if label == "circle" else ImageDraw.Draw(image).rectangle
        shape((left, top, left + size, top + size), fill=(number, 80, 160))
        (folder / label).mkdir(parents=True, exist_ok=True)
        image.save(folder / label / f"{number}.png")


RANGES = ((2, 12), (2, 12), (16, 24))
