"""Records in the cache folder: files of rows with a checksum, which are read and written completely or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from graft.system.files import atomic_path

Rows = np.ndarray[Any, np.dtype[np.void]]


def read_rows(path: Path, magic: bytes, row: np.dtype[np.void]) -> Rows:
    """The rows of a record. Empty if the file is missing, damaged, or no such record.

    Args:
        magic: the first bytes of the file.
        row: the dtype of a row.
    """
    nothing = np.empty(0, row)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return nothing
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return nothing
    with open(descriptor, "rb") as file:
        content = file.read() if file.read(len(magic)) == magic else b""
    rows, checksum = content[:-32], content[-32:]
    if hashlib.sha256(rows).digest() != checksum or len(rows) % row.itemsize:
        return nothing
    return np.frombuffer(rows, dtype=row)


def write_rows(path: Path, magic: bytes, rows: Rows) -> None:
    """Writes a record. Errors of the file system are ignored, because a record only saves time."""
    content = rows.tobytes()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(magic + content + hashlib.sha256(content).digest())
