"""Sources of uint8 images: their files, or one cache file with all of them decoded (cache=images)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol, TypeVar

import numpy as np
import torch
from torchvision.transforms import InterpolationMode

from graft.config.faults import RunFailed
from graft.data.pixels import Unreadable, measure, read_pixels
from graft.data.table import Sample
from graft.data.transforms import resize
from graft.features.cache_folder import CacheFolder
from graft.features.store import StoredRows, Writer

Item = TypeVar("Item")
Result = TypeVar("Result")

FORMAT = 1  # part of every key: to be incremented whenever decoding or resizing gives other pixels
_ALIGNMENT = 8
_COLUMNS = 4  # offset, planes, height, width
_CHUNK = 32  # images per unit of work of a thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How a file is turned into the pixels that are stored."""

    channels: int
    jpeg_edge: int | None
    """See `read_pixels`."""
    edge: int | None
    """Length in pixels to which the shorter edge is resized, as the transform would do; None: stored as decoded."""
    mode: InterpolationMode

    def __call__(self, path: str) -> torch.Tensor:
        """uint8 [C, H, W]"""
        image_CHW = decode(path, self.channels, self.jpeg_edge)
        return image_CHW if self.edge is None else resize(image_CHW, self.edge, self.mode)


class ImageSource(Protocol):
    """Decoded images by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> torch.Tensor:
        """A read-only image, uint8 [C, H, W]. Raises Unreadable if the file cannot be decoded."""
        ...


class ImageFiles:
    """Decodes a file each time it is requested.

    Args:
        jpeg_edge: see `read_pixels`.
    """

    def __init__(self, paths: Sequence[str], channels: int, jpeg_edge: int | None = None) -> None:
        self.paths, self.channels, self.jpeg_edge = paths, channels, jpeg_edge

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return decode(self.paths[index], self.channels, self.jpeg_edge)


class StoredImages:
    """Images from a cache entry, by index.

    Args:
        entry: the bytes of the images, followed by one row (offset, planes, height, width) for each.
        rows: the entry's row for each index.
        channels: channels of the images that are returned. Grey images are repeated.
    """

    def __init__(self, entry: StoredRows, rows: Sequence[int], channels: int) -> None:
        self.bytes, self.channels = entry.tensor, channels
        self.layout_N4 = _layout_of(entry)[torch.as_tensor(rows, dtype=torch.int64)]

    def __len__(self) -> int:
        return len(self.layout_N4)

    def __getitem__(self, index: int) -> torch.Tensor:
        offset, planes, height, width = self.layout_N4[index].tolist()
        image_CHW = self.bytes[offset : offset + planes * height * width].view(planes, height, width)
        return image_CHW.expand(self.channels, -1, -1)


def decode(path: str, channels: int, jpeg_edge: int | None = None) -> torch.Tensor:
    """Decodes a file as uint8 [C, H, W] in memory order H, W, C, in which resizing is fastest.

    Args:
        jpeg_edge: see `read_pixels`.

    Raises:
        Unreadable: the file cannot be decoded.
    """
    return torch.from_numpy(read_pixels(path, channels, jpeg_edge)).permute(2, 0, 1)


def store_images(
    samples: Sequence[Sample], folder: CacheFolder, decoding: Decoding
) -> Callable[[Sequence[Sample]], StoredImages]:
    """Decodes every image into one cache entry, unless it exists.

    The entry is for these versions of these files, and all splits, seeds and runs share it. Grey images are stored as
    one plane, whatever the number of channels.

    Returns:
        A function that gives the stored images of any of the samples.

    Raises:
        InputError: the entry would exceed the cache's limit. Nothing is written.
        RunFailed: a file has changed or cannot be decoded.
    """
    unique = {sample.path: sample for sample in sorted(samples, key=lambda sample: sample.path)}
    rows = {path: row for row, path in enumerate(unique)}
    key = _key(list(unique.values()), decoding)

    def fits(entry: StoredRows) -> bool:
        return _holds_images(entry, len(unique), decoding.channels)

    entry = folder.open(key, fits)
    if entry is None:
        layout_N4 = _layout(list(unique), decoding)
        end = int(layout_N4[-1, 0] + layout_N4[-1, 1:].prod())
        index_at = -(-end // _ALIGNMENT) * _ALIGNMENT
        resized = "" if decoding.edge is None else f", shorter edge {decoding.edge}"
        record = {
            "kind": "images", "images": len(unique), "index_at": index_at,
            "channels": decoding.channels, "jpeg_edge": decoding.jpeg_edge, "edge": decoding.edge,
            "interpolation": decoding.mode.value,
            "what": f"{len(unique)} decoded images{resized}, of {os.path.commonpath(list(unique))}",
        }  # fmt: skip

        def fill(writer: Writer) -> None:
            for image in _decoded(list(unique), layout_N4, decoding):
                writer.append(image)
            writer.append(torch.zeros(index_at - end, dtype=torch.uint8))
            writer.append(torch.from_numpy(layout_N4).view(torch.uint8).flatten())

        shape = (index_at + layout_N4.nbytes,)
        entry = folder.open_or_write(key, shape=shape, dtype="uint8", record=record, fill=fill, fits=fits)
    sealed = entry
    return lambda wanted: StoredImages(sealed, [rows[sample.path] for sample in wanted], decoding.channels)


def _layout_of(entry: StoredRows) -> torch.Tensor:
    count, start = entry.header.record["images"], entry.header.record["index_at"]
    return entry.tensor[start : start + count * _COLUMNS * _ALIGNMENT].view(torch.int64).view(count, _COLUMNS)


def _holds_images(entry: StoredRows, count: int, channels: int) -> bool:
    """Whether the entry has this many images, all within its size."""
    record, shape = entry.header.record, entry.header.shape
    start = record.get("index_at")
    if record.get("images") != count or type(start) is not int or start < 0 or start % _ALIGNMENT:
        return False
    if entry.header.dtype != "uint8" or shape != (start + count * _COLUMNS * _ALIGNMENT,):
        return False
    layout_N4 = _layout_of(entry).numpy().astype(object)  # integers that do not overflow
    offsets, planes, heights, widths = layout_N4.T
    return bool(
        (offsets >= 0).all()
        and ((planes == 1) | (planes == channels)).all()
        and (heights > 0).all()
        and (widths > 0).all()
        and (offsets + planes * heights * widths <= start).all()
    )


def _key(samples: Sequence[Sample], decoding: Decoding) -> str:
    versions = [version(library) for library in ("pillow", "torch", "torchvision")]
    settings = (decoding.channels, decoding.jpeg_edge, decoding.edge, decoding.mode.value if decoding.edge else None)
    running = hashlib.sha256(repr(("images", FORMAT, *settings, versions)).encode())
    for sample in samples:
        running.update(sample.content.encode())
    return running.hexdigest()


def _layout(paths: Sequence[str], decoding: Decoding) -> np.ndarray:
    """Offset, planes, height and width of each image in the store, from the files' headers."""
    edge, channels = decoding.edge, decoding.channels
    rows = _in_threads(lambda path: measure(path, decoding.jpeg_edge), paths)
    heights, widths, grey = np.array([row for chunk in rows for row in chunk], dtype=np.int64).T
    if edge is not None:
        short, long = np.minimum(heights, widths), np.maximum(heights, widths)
        long = edge * long // short  # the same rounding as torchvision's
        heights, widths = np.where(heights <= widths, edge, long), np.where(heights <= widths, long, edge)
    planes = np.where((grey == 1) & (channels == 3), 1, channels)
    sizes = planes * heights * widths
    return np.stack([np.cumsum(sizes) - sizes, planes, heights, widths], axis=1)


def _decoded(paths: Sequence[str], layout_N4: np.ndarray, decoding: Decoding) -> Iterator[torch.Tensor]:
    """The bytes of every image, in order."""

    def one(place: int) -> torch.Tensor:
        try:
            image_CHW = decoding(paths[place])
        except Unreadable as unreadable:
            raise RunFailed(f"{unreadable}: cannot be decoded; try removing it, or data.on_error=skip") from None
        expected = tuple(layout_N4[place, 1:].tolist())
        image_CHW = image_CHW[: expected[0]]
        if tuple(image_CHW.shape) != expected:
            raise RunFailed(
                f"{paths[place]}: expected an image of {expected} as its header says, received "
                f"{tuple(image_CHW.shape)}; try cache=none"
            )
        return image_CHW.contiguous().flatten()

    for images in _in_threads(one, range(len(paths))):
        yield from images


def _in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[list[Result]]:
    """The results in order, in chunks. Work runs at most a few chunks ahead of the consumer."""
    threads = min(8, os.cpu_count() or 1)
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for start in range(0, len(chunks), 2 * threads):
            yield from pool.map(lambda chunk: [work(item) for item in chunk], chunks[start : start + 2 * threads])
