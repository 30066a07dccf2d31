"""What is in each image file: a hash of its bytes, computed once for each version of the file."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from graft.data.record import read_rows, write_rows

HASH_BYTES = 16
FOLDER = "contents"
"""Of the cache folder: where records lie."""
SETTLED_SECONDS = 4.0
"""A file that changed later than this before it was read may change again without its times telling; some file systems
count in seconds."""
_MAGIC = b"graft contents 1"
_RECORD = np.dtype(
    [("device", "<u8"), ("inode", "<u8"), ("size", "<u8"), ("modified", "<i8"), ("changed", "<i8"), ("hash", "V16")]
)


class Version(NamedTuple):
    """What tells one version of a file from another without reading it; no program can set `changed`."""

    device: int
    inode: int
    size: int
    modified: int
    """Nanoseconds since 1970, as `changed`."""
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> Version:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_settled(self) -> bool:
        """Whether a later change of the file will tell."""
        return max(self.modified, self.changed) < (time.time() - SETTLED_SECONDS) * 1e9


class Contents:
    """Hashes of files, remembered in a record so that a version of a file is read once, not once a run.

    Args:
        path: the record's; None: nothing is remembered.
        writes: whether `keep` writes it.
    """

    def __init__(self, path: Path | None = None, *, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        rows = read_rows(path, _MAGIC, _RECORD).tolist() if path is not None else []
        self._before = {Version(*row[:-1]): bytes(row[-1]) for row in rows}
        self._current: dict[Version, bytes] = {}
        self.hashed = 0
        """Files that had to be read."""

    def of(self, path: str) -> tuple[str, os.stat_result]:
        """The hash of the file's bytes (hexadecimal), and its status.

        Raises:
            OSError: it cannot be read.
        """
        status = os.stat(path)
        content = self._before.get(Version.of(status))
        if content is not None:
            self._current[Version.of(status)] = content
            return content.hex(), status
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            value = hashlib.file_digest(file, "sha256").digest()[:HASH_BYTES]
            after = os.fstat(file.fileno())
        self.hashed += 1
        version = Version.of(after)
        if version == Version.of(status) and version.is_settled():
            self._current[version] = value
        return value.hex(), status

    def keep(self) -> None:
        """Writes the record of the files that were asked for, where it would be another."""
        if self.path is None or not self.writes or self._current == self._before:
            return
        rows = np.array([(*version, value) for version, value in self._current.items()], dtype=_RECORD)
        write_rows(self.path, _MAGIC, rows)
        self._before = dict(self._current)
