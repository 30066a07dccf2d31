"""The images that every way is given: the solar cells as class folders, or generated ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from graft.config.choices import DataKind
from graft.config.schema_images import DataConfig
from graft.data.datasets import load_table
from graft.data.table import PARTS, Sample

_CLASSES = ("first", "second")
_FEWEST = 16  # images of a part, so that each class has some


def solar_cells(root: Path, images: int | None = None) -> Path:
    """train/, val/ and test/ of the solar cells, as graft divides them, in links to the package's files.

    Args:
        images: so many of the training part, and as large a share of the others, though 16 at least, evenly drawn;
            None: all.
    """
    table = load_table(DataConfig(kind=DataKind.solar_cells))
    for part in PARTS:
        samples = table.part(part)
        share = 1.0 if images is None else min(1.0, images / len(table.train))
        for sample in _evenly(samples, max(round(share * len(samples)), min(_FEWEST, len(samples)))):
            place = root / part / table.labels.words(sample.label, table.classes)
            place.mkdir(parents=True, exist_ok=True)
            (place / Path(sample.path).name).symlink_to(sample.path)
    return root


def generated(root: Path, counts: dict[str, int], *, size: tuple[int, int], suffix: str = ".jpg") -> Path:
    """So many images a part, of two classes that differ in their brightest colour: blots with a little grain."""
    generator = np.random.default_rng(0)
    for part, count in counts.items():
        for number in range(count):
            label = number % len(_CLASSES)
            place = root / part / _CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            blots = generator.integers(0, 200, (12, 16, 3), dtype=np.uint8)
            blots[..., label] += 55
            picture = Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC)
            grain = generator.normal(0, 4, (size[1], size[0], 1))
            pixels = np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{number:06}{suffix}", quality=90)
    return root


def _evenly(samples: Sequence[Sample], count: int) -> list[Sample]:
    return [samples[number * len(samples) // count] for number in range(count)]
