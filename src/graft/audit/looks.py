"""What an image looks like in a few numbers: its size, its border, and a small grey picture of it.

An image is decoded for them once. A record in the cache folder remembers them by the file's content.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graft.data.pixels import Unreadable, measure, read_pixels
from graft.data.record import read_rows, write_rows
from graft.data.table import Sample

SIDE = 48
RING = 2  # pixels of the small picture that are its border
_MAGIC = b"graft looks 1"
_RECORD = np.dtype(
    [
        ("content", "V16"), ("width", "<u4"), ("height", "<u4"), ("is_grey", "?"), ("brightness", "<f4"),
        ("contrast", "<f4"), ("border", "<f4", 3), ("spread", "<f4"), ("small", "u1", (SIDE, SIDE)),
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """One row for each image; brightness and colours are from 0 to 255."""

    width_N: NDArray[np.int64]
    height_N: NDArray[np.int64]
    bytes_N: NDArray[np.int64]
    """The file's size."""
    is_grey_N: NDArray[np.bool_]
    """Whether the file has a single channel."""
    brightness_N: NDArray[np.float64]
    contrast_N: NDArray[np.float64]
    """The standard deviation of the pixels."""
    border_N3: NDArray[np.float64]
    """The mean colour along the four edges."""
    spread_N: NDArray[np.float64]
    """The standard deviation of the pixels along the four edges; 0 if the border is plain."""
    small_NSS: NDArray[np.uint8]
    """The whole image in grey, 48 by 48 pixels."""


def look_at(samples: Sequence[Sample], channels: int, path: Path | None = None) -> Looks:
    """The looks of the samples, in order.

    Args:
        path: the record; None: nothing is remembered.
    """
    before = {bytes(row["content"]): row for row in read_rows(path, _MAGIC, _RECORD)} if path is not None else {}
    new = {sample.content: sample for sample in samples if bytes.fromhex(sample.content) not in before}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for row in pool.map(lambda sample: _row(sample, channels), new.values()):
            before[bytes(row["content"])] = row
    rows = np.array([before[bytes.fromhex(sample.content)] for sample in samples], dtype=_RECORD)
    if path is not None and new:
        write_rows(path, _MAGIC, rows)
    return Looks(
        width_N=rows["width"].astype(np.int64),
        height_N=rows["height"].astype(np.int64),
        bytes_N=np.array([os.stat(sample.path).st_size for sample in samples], dtype=np.int64),
        is_grey_N=rows["is_grey"].astype(bool),
        brightness_N=rows["brightness"].astype(np.float64),
        contrast_N=rows["contrast"].astype(np.float64),
        border_N3=rows["border"].astype(np.float64),
        spread_N=rows["spread"].astype(np.float64),
        small_NSS=rows["small"],
    )


def _row(sample: Sample, channels: int) -> Any:
    """A row of the record; black for an image that cannot be read, which training refuses when its turn comes."""
    row = np.zeros((), dtype=_RECORD)
    row["content"] = bytes.fromhex(sample.content)
    try:
        row["height"], row["width"], row["is_grey"] = measure(sample.path)
        pixels_HWC = read_pixels(sample.path, channels, jpeg_edge=2 * SIDE)
    except Unreadable:
        return row
    small_SSC = _small_colours(pixels_HWC)
    grey_SS = small_SSC.mean(-1)
    edge = np.ones((SIDE, SIDE), dtype=bool)
    edge[RING:-RING, RING:-RING] = False
    colour_C = small_SSC[edge].mean(0)
    row["border"] = colour_C if channels == 3 else colour_C.mean()
    row["spread"] = small_SSC[edge].std(0).mean()
    row["brightness"], row["contrast"] = grey_SS.mean(), grey_SS.std()
    row["small"] = grey_SS.round().astype(np.uint8)
    return row


def small_picture(pixels_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image in grey, 48 by 48 pixels, as `Looks` has it."""
    return _small_colours(pixels_HWC).mean(-1).round().astype(np.uint8)


def _small_colours(pixels_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.stack([_small(pixels_HWC[..., channel]) for channel in range(pixels_HWC.shape[-1])], axis=-1)


def _small(pixels_HW: NDArray[np.uint8]) -> NDArray[np.float32]:
    image = Image.fromarray(pixels_HW)
    way = Image.Resampling.BOX if min(image.size) >= 2 * SIDE else Image.Resampling.BILINEAR
    return np.asarray(image.resize((SIDE, SIDE), way), dtype=np.float32)
