"""Which files show the same picture, pixel for pixel, whatever the files' bytes: a BMP and its copy in PNG, say.

Only files that can show the same are decoded: those whose sides have the same lengths, as their headers say. What
decoding told is remembered by the file's content, so that a picture is decoded for it once, not once a run.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from graft.data.contents import HASH_BYTES, Version
from graft.data.pixels import Unreadable, read_pixels, sides
from graft.data.record import read_rows, write_rows

FOLDER = "pictures"
"""Of the cache folder: where records lie."""
_MAGIC = b"graft pictures 1"
_RECORD = np.dtype([("content", "V16"), ("short", "<u4"), ("long", "<u4"), ("pixels", "V16")])
_UNDECODED = bytes(HASH_BYTES)
_CHUNK = 64  # files a thread takes at once

Item = TypeVar("Item")
Result = TypeVar("Result")


class Picture(NamedTuple):
    """What a file shows: its sides, and a hash of its pixels where it has been decoded."""

    short: int
    long: int
    pixels: bytes = _UNDECODED

    @classmethod
    def of(cls, pixels_HWC: np.ndarray[Any, np.dtype[np.uint8]]) -> Picture:
        height, width, _ = pixels_HWC.shape
        running = hashlib.sha256(f"{height} {width} ".encode())
        running.update(np.ascontiguousarray(pixels_HWC).data)
        return cls(min(height, width), max(height, width), running.digest()[:HASH_BYTES])


@dataclass(frozen=True, slots=True)
class ReadableFile:
    """A file that can be read: its content and the version that has it; the picture, where it has been decoded."""

    path: str
    content: str
    version: Version
    picture: Picture | None = None


class Pictures:
    """Pictures by content, remembered in a record.

    Args:
        channels: the run's; pixels are compared as it reads them.
        path: the record's; None: nothing is remembered. Another for other channels, and for another decoder.
        writes: whether `keep` writes it.
    """

    def __init__(self, channels: int, path: Path | None = None, *, writes: bool = True) -> None:
        self.channels, self.path, self.writes = channels, path, writes
        rows = read_rows(path, _MAGIC, _RECORD).tolist() if path is not None else []
        self._before = {bytes(row[0]): Picture(row[1], row[2], bytes(row[3])) for row in rows}
        self._current: dict[bytes, Picture] = {}
        self.decoded = 0
        """Files that had to be decoded."""

    def tell_apart(self, files: Sequence[ReadableFile]) -> dict[str, str | Unreadable]:
        """By content, what is the same for files that show the same picture and for no others: a hash of the pixels, or
        the content where no other file has sides of these lengths; or why the picture cannot be decoded.
        """
        unique = {file.content: file for file in files}
        pictures = dict(zip(unique, _in_threads(self._measured, list(unique.values())), strict=True))
        sizes = Counter(picture[:2] for picture in pictures.values() if isinstance(picture, Picture))
        open_files = [
            unique[content]
            for content, picture in pictures.items()
            if isinstance(picture, Picture) and picture.pixels == _UNDECODED and sizes[picture[:2]] > 1
        ]
        self.decoded += len(open_files)
        decoded = _in_threads(self._decoded, open_files)
        pictures.update(zip((file.content for file in open_files), decoded, strict=True))
        for content, picture in pictures.items():
            if isinstance(picture, Picture) and _is_unchanged(unique[content]):
                self._current[bytes.fromhex(content)] = picture
        return {content: _identity(content, picture) for content, picture in pictures.items()}

    def keep(self) -> None:
        """Writes the record of the files that were asked for, where it would be another."""
        if self.path is None or not self.writes or self._current == self._before:
            return
        rows = np.array([(content, *picture) for content, picture in self._current.items()], dtype=_RECORD)
        write_rows(self.path, _MAGIC, rows)

    def _measured(self, file: ReadableFile) -> Picture | Unreadable:
        before = self._before.get(bytes.fromhex(file.content))
        if before is not None and (before.pixels != _UNDECODED or file.picture is None):
            return before
        if file.picture is not None:
            return file.picture
        try:
            return Picture(*sides(file.path))
        except Unreadable as unreadable:
            return unreadable

    def _decoded(self, file: ReadableFile) -> Picture | Unreadable:
        try:
            return Picture.of(read_pixels(file.path, self.channels))
        except Unreadable as unreadable:
            return unreadable


def _identity(content: str, picture: Picture | Unreadable) -> str | Unreadable:
    if isinstance(picture, Unreadable):
        return picture
    return content if picture.pixels == _UNDECODED else picture.pixels.hex()


def _is_unchanged(file: ReadableFile) -> bool:
    """What was decoded is remembered for the content that was hashed, so it must be of the same version."""
    try:
        return file.version.is_settled() and Version.of(os.stat(file.path)) == file.version
    except OSError:
        return False


def _in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Results in order."""
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        return [one for chunk in pool.map(lambda chunk: [work(item) for item in chunk], chunks) for one in chunk]
