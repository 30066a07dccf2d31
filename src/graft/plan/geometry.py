"""How much of the images a centre crop leaves out."""

from __future__ import annotations

from collections.abc import Sequence

from graft.config.choices import Resize
from graft.data.pixels import Unreadable, sides
from graft.data.table import Sample
from graft.models.preprocess import Preprocess

LOOKED_AT = 100
"""Images whose headers are read, evenly spaced."""


def cropped_share(samples: Sequence[Sample], preprocess: Preprocess) -> float | None:
    """The mean share of the pixels that the centre crop of evaluation leaves out; None if no image can be read."""
    if preprocess.resize != Resize.crop.value:
        return 0.0
    shares: list[float] = []
    for sample in samples[:: max(1, len(samples) // LOOKED_AT)]:
        try:
            short, long = sides(sample.path)
        except Unreadable:
            continue
        shares.append(1 - preprocess.crop_fraction**2 * short / long)
    return sum(shares) / len(shares) if shares else None
