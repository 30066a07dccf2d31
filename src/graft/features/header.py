"""The header of a cache entry: written by one process, and checked by the next as what a stranger may have written.

A checksum proves nothing about who computed it, so each field must have a value that graft writes.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch

BLOCK = 16 * 1024 * 1024
"""Bytes of rows under one checksum."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "uint8": torch.uint8}

_MAGIC = b"graftar1"
_PREAMBLE = struct.Struct("<8sII")  # magic, length of the header, checksum of the header
_PAGE = 4096
_DIMENSIONS = 8


class Damaged(Exception):
    """An entry's file has changed since it was completed; str() says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The metadata of an entry."""

    key: str
    shape: tuple[int, ...]
    dtype: str
    created: str
    block_bytes: int
    checksums: str
    """The CRC-32 checksums of all blocks, eight hexadecimal digits each, concatenated."""
    record: Mapping[str, Any]
    """What the rows were computed from, for users and for `graft cache list`."""

    @property
    def data_bytes(self) -> int:
        return array_bytes(self.shape, self.dtype)

    def pack(self) -> bytes:
        """The bytes of the file before the first row."""
        text = json.dumps({name: getattr(self, name) for name in self.__slots__}).encode()
        preamble = _PREAMBLE.pack(_MAGIC, len(text), zlib.crc32(text))
        return (preamble + text).ljust(first_row(len(text)), b"\0")


def array_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Number of bytes of an array's rows."""
    return math.prod(shape) * DTYPES[dtype].itemsize


def blank_header(key: str, shape: tuple[int, ...], dtype: str, record: Mapping[str, Any]) -> Header:
    blocks = math.ceil(array_bytes(shape, dtype) / BLOCK)
    return Header(
        key=key, shape=tuple(shape), dtype=dtype, created=datetime.now(UTC).isoformat(timespec="seconds"),
        block_bytes=BLOCK, checksums="0" * 8 * blocks, record=dict(record),
    )  # fmt: skip


def locate_rows(path: Path) -> tuple[Header, int]:
    """The header and the offset of the first row."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise Damaged(f"{path.name} cannot be opened ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Damaged(f"{path.name} is no regular file")
    with open(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        preamble = file.read(_PREAMBLE.size)
        if not preamble.startswith(_MAGIC) or len(preamble) < _PREAMBLE.size:
            raise Damaged(f"{path.name} is not a cache entry of this format")
        _, length, checksum = _PREAMBLE.unpack(preamble)
        text = file.read(min(length, size))
        if len(text) != length or zlib.crc32(text) != checksum:
            raise Damaged(f"{path.name} has a damaged header")
    header = _header_of(text)
    if header is None:
        raise Damaged(f"{path.name} has a header that no entry has")
    expected = first_row(length) + header.data_bytes
    if expected != size:
        raise Damaged(f"{path.name} has {size} bytes where its header says {expected}")
    return header, first_row(length)


def _header_of(text: bytes) -> Header | None:
    """The header; None if a field is missing, or has a value that `Writer` does not write."""
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or set(cast("dict[Any, Any]", values)) != set(Header.__slots__):
        return None
    shape, dtype, checksums = values["shape"], values["dtype"], values["checksums"]
    sound = (
        all(isinstance(values[name], str) for name in ("key", "dtype", "created", "checksums"))
        and isinstance(values["record"], dict)
        and dtype in DTYPES
        and isinstance(shape, list)
        and 0 < len(cast("list[Any]", shape)) <= _DIMENSIONS
        and all(type(size) is int and 0 <= size < 1 << 48 for size in cast("list[Any]", shape))
        and values["block_bytes"] == BLOCK
    )
    if not sound:
        return None
    values["shape"] = tuple(shape)
    header = Header(**values)
    blocks = math.ceil(header.data_bytes / BLOCK)
    return header if len(checksums) == 8 * blocks and re.fullmatch("[0-9a-f]*", checksums) else None


def first_row(header_length: int) -> int:
    """Offset of the rows after a header of this length, aligned to a page."""
    return math.ceil((_PREAMBLE.size + header_length) / _PAGE) * _PAGE


def read_header(path: Path) -> Header:
    """The header of a completed entry. Reads no rows, so the time does not depend on the entry's size.

    Raises:
        Damaged: the file is not an entry, or its header or size has changed.
    """
    return locate_rows(path)[0]
