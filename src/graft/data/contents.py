"""Hashes of the contents of files, computed once for each version of a file."""

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
"""The subfolder of the cache folder that has the records."""
SETTLED_SECONDS = 4.0
"""A file that changed more recently than this may change again within the resolution of its time stamps, which is a
second or more on some file systems. Its hash is not recorded."""
_MAGIC = b"graft contents 1"
_RECORD = np.dtype(
    [("device", "<u8"), ("inode", "<u8"), ("size", "<u8"), ("modified", "<i8"), ("changed", "<i8"), ("hash", "V16")]
)


class Version(NamedTuple):
    """Identifies a version of a file without reading it. Programs can set `modified`, but not `changed`."""

    device: int
    inode: int
    size: int
    modified: int
    """Time of the last modification, in nanoseconds since 1970. `changed` has the same unit."""
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> Version:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_settled(self) -> bool:
        """Whether any later change of the file will alter its time stamps."""
        return max(self.modified, self.changed) < (time.time() - SETTLED_SECONDS) * 1e9


class Contents:
    """Hashes of files, stored in a record so that a file is read again only if it has changed.

    Args:
        path: path of the record; None: every file is read.
        writes: whether `keep` writes the record.
    """

    def __init__(self, path: Path | None = None, *, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        rows = read_rows(path, _MAGIC, _RECORD).tolist() if path is not None else []
        self._before = {Version(*row[:-1]): bytes(row[-1]) for row in rows}
        self._current: dict[Version, bytes] = {}
        self.hashed = 0
        """The number of files that had to be read."""

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
        """Writes the record of the files that were requested, if it has changed."""
        if self.path is None or not self.writes or self._current == self._before:
            return
        rows = np.array([(*version, value) for version, value in self._current.items()], dtype=_RECORD)
        write_rows(self.path, _MAGIC, rows)
        self._before = dict(self._current)
