"""One array on disk, written completely or not at all: to a temporary file, with a checksum per block, renamed when
complete.

An entry is one file: a magic word, a JSON header (shape, dtype, a checksum per block, a free record of its contents),
padding to a page, then the rows in order. `head -c 2000 entry.graft` shows its header.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from graft.config.faults import RunFailed
from graft.features.header import BLOCK, DTYPES, Damaged, Header, array_bytes, blank_header, locate_rows

SUFFIX = ".graft"
PARTIAL = ".partial"
_NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "uint8": np.uint8}  # same width


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRows:
    """A completed array: its header, and its rows as a tensor (in memory, or mapped from the file)."""

    path: Path
    header: Header
    tensor: torch.Tensor
    resident: bool
    """Whether the rows were read into memory rather than mapped."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Makes a loader's worker map the file again instead of receiving a copy of the rows."""
        return _map, (self.path,)


def entry_bytes(shape: tuple[int, ...], dtype: str, record: Mapping[str, Any]) -> int:
    """Number of bytes of an entry's file, with a SHA-256 as its key."""
    return len(blank_header("0" * 64, shape, dtype, record).pack()) + array_bytes(shape, dtype)


def entry_path(folder: Path, key: str) -> Path:
    """Path of the entry with this key."""
    return folder / f"{key}{SUFFIX}"


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor, without a copy."""
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


class Writer:
    """Takes an entry's rows in order and completes the file. Leaving it without `seal` removes everything.

    The full file size is reserved at the start, so that a full disk is noticed before the work is done.
    """

    def __init__(
        self, folder: Path, key: str, shape: tuple[int, ...], dtype: str, record: Mapping[str, Any] | None = None
    ) -> None:
        self.path = entry_path(folder, key)
        self.header = blank_header(key, shape, dtype, record or {})
        self._partial = folder / f"{key}{PARTIAL}"
        self._offset = len(self.header.pack())
        self._checksums: list[int] = []
        self._running, self._length = 0, 0
        self._file = open(self._partial, "wb")  # noqa: SIM115 - closed by seal or discard
        try:
            os.posix_fallocate(self._file.fileno(), 0, self._offset + self.header.data_bytes)
            self._file.seek(self._offset)
        except BaseException:  # a signal's too, which comes while gigabytes are claimed
            self.discard()
            raise

    def append(self, rows: torch.Tensor) -> None:
        """Writes the next rows, [n, *shape[1:]], in the entry's own dtype. Raises RunFailed if they cannot be
        written."""
        expected, dtype = self.header.shape[1:], DTYPES[self.header.dtype]
        assert tuple(rows.shape[1:]) == expected, f"rows of {tuple(rows.shape[1:])} for an entry of {expected}"
        assert rows.dtype == dtype, f"rows of {rows.dtype} for an entry of {dtype}"
        data = bytes_of(rows.detach().cpu().contiguous())
        assert self._length + len(data) <= self.header.data_bytes, "more rows than the entry was created for"
        try:
            self._file.write(data)
        except OSError as error:
            raise _failed(self.path, error) from error
        while data:
            room = BLOCK - self._length % BLOCK
            self._running = zlib.crc32(data[:room], self._running)
            self._length += len(data[:room])
            if self._length % BLOCK == 0:
                self._close_block()
            data = data[room:]

    def seal(self) -> None:
        """Writes the checksums into the header, flushes to disk, and renames the file to its final name.

        Raises:
            RunFailed: the file cannot be written.
        """
        assert self._length == self.header.data_bytes, "an entry is sealed when every row is there"
        if self._length % BLOCK:
            self._close_block()
        checksums = "".join(f"{value:08x}" for value in self._checksums)
        self.header = replace(self.header, checksums=checksums)
        packed = self.header.pack()
        assert len(packed) == self._offset, "the header was sized for its checksums"
        try:
            self._file.seek(0)
            self._file.write(packed)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._partial, self.path)
            _flush_folder(self.path.parent)
        except OSError as error:
            raise _failed(self.path, error) from error

    def discard(self) -> None:
        """Removes everything written so far."""
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def _close_block(self) -> None:
        self._checksums.append(self._running)
        self._running = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            self.discard()


def open_entry(folder: Path, key: str, *, resident_bytes: int = 0) -> StoredRows | None:
    """The entry with this key, after checking every block. None if there is none.

    Args:
        resident_bytes: rows of at most this size are read into memory, so that the checked bytes are the ones used.
            Larger ones are mapped from the file, copy-on-write, and stay on disk.

    Raises:
        Damaged: a block's checksum, the header or the size is wrong.
    """
    path = entry_path(folder, key)
    try:
        header, offset = locate_rows(path)
    except FileNotFoundError:
        return None
    if header.key != key:
        raise Damaged(f"{path.name} holds the entry {header.key}")
    if header.data_bytes <= resident_bytes:
        tensor = torch.empty(header.shape, dtype=DTYPES[header.dtype])
        _check(path, header, offset, into=bytes_of(tensor))
        entry = StoredRows(path=path, header=header, tensor=tensor, resident=True)
    else:
        _check(path, header, offset, into=None)
        entry = _map(path)
    with suppress(PermissionError):  # another user's entry is read all the same
        os.utime(path)  # the time of last use, by which prune chooses
    return entry


def _map(path: Path) -> StoredRows:
    """The entry with its rows on disk, unchecked. Copy-on-write: changes to the tensor never reach the file."""
    header, offset = locate_rows(path)
    mapped = np.memmap(path, dtype=_NUMPY[header.dtype], mode="c", offset=offset, shape=header.shape)
    return StoredRows(
        path=path, header=header, tensor=torch.from_numpy(mapped).view(DTYPES[header.dtype]), resident=False
    )


def _blocks(header: Header) -> Iterator[tuple[int, int, int]]:
    """Start, end and checksum of each block of rows."""
    for number, start in enumerate(range(0, header.data_bytes, header.block_bytes)):
        checksum = int(header.checksums[8 * number : 8 * number + 8], 16)
        yield start, min(start + header.block_bytes, header.data_bytes), checksum


def _check(path: Path, header: Header, offset: int, into: memoryview | None) -> None:
    """Compares every block with its checksum, a few at a time, and copies the bytes to `into` if it is given."""
    descriptor = os.open(path, os.O_RDONLY)

    def holds(block: tuple[int, int, int]) -> bool:
        start, end, checksum = block
        target = memoryview(bytearray(end - start)) if into is None else into[start:end]
        got = 0
        while got < len(target):
            count = os.preadv(descriptor, [target[got:]], offset + start + got)
            if count == 0:
                return False
            got += count
        return zlib.crc32(target) == checksum

    try:
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            sound = list(pool.map(holds, _blocks(header)))
    finally:
        os.close(descriptor)
    if not all(sound):
        raise Damaged(f"{path.name}: block {sound.index(False) + 1} of {len(sound)} does not match its checksum")


def _failed(path: Path, error: OSError) -> RunFailed:
    return RunFailed(f"the cache entry {path} could not be written ({error}); try cache.dir=… on another disk")


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
