"""Finds files that show the same picture, pixel for pixel, in whatever format: for example, a BMP and a PNG of it.

Only files whose sides have the same lengths, by their headers, can show the same picture, so only they are decoded. The
results are recorded under the hash of the file's content, so each content is decoded only once.
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
"""The subfolder of the cache folder that has the records."""
_MAGIC = b"graft pictures 1"
_RECORD = np.dtype([("content", "V16"), ("short", "<u4"), ("long", "<u4"), ("pixels", "V16")])
_UNDECODED = bytes(HASH_BYTES)
_CHUNK = 64  # files per unit of work of a thread

Item = TypeVar("Item")
Result = TypeVar("Result")


class Picture(NamedTuple):
    """What a file shows: its shorter and longer side, and a hash of its pixels if it has been decoded."""

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
    """A readable file: the hash of its content, its version, and its picture if it has been decoded."""

    path: str
    content: str
    version: Version
    picture: Picture | None = None


class Pictures:
    """Pictures by the hash of a file's content, stored in a record.

    Args:
        channels: the run's channels. Pixels are compared after conversion to them.
        path: path of the record; None: there is none. Other channels and other decoders need other records.
        writes: whether `keep` writes the record.
    """

    def __init__(self, channels: int, path: Path | None = None, *, writes: bool = True) -> None:
        self.channels, self.path, self.writes = channels, path, writes
        rows = read_rows(path, _MAGIC, _RECORD).tolist() if path is not None else []
        self._before = {bytes(row[0]): Picture(row[1], row[2], bytes(row[3])) for row in rows}
        self._current: dict[bytes, Picture] = {}
        self.decoded = 0
        """The number of files that had to be decoded."""

    def tell_apart(self, files: Sequence[ReadableFile]) -> dict[str, str | Unreadable]:
        """Identifies the pictures of files: two files have the same identity if and only if they show the same.

        Returns:
            Hash of the content to the identity, or to Unreadable if the picture cannot be decoded. The identity is a
            hash of the pixels, or that of the content if no other file has sides of the same lengths.
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
        """Writes the record of the files that were requested, if it has changed."""
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
    """Whether the file is still the version that was hashed. Otherwise the result may belong to another content."""
    try:
        return file.version.is_settled() and Version.of(os.stat(file.path)) == file.version
    except OSError:
        return False


def _in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The results in order."""
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        return [one for chunk in pool.map(lambda chunk: [work(item) for item in chunk], chunks) for one in chunk]
