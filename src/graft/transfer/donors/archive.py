"""Zip archives that contain donors: checked for damage and for oversized entries before anything is read."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from graft.transfer.donors.sniff import DAMAGE, first_line, refused

EXPANSION = 16
"""Compressed entries may unpack to this multiple of the file's size."""
FLOOR = 16 * 2**20
"""… or to this many bytes, whichever is more."""
_CHUNK = 2**20
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def entries(path: Path, what: str) -> list[zipfile.ZipInfo]:
    """The entries of the archive.

    Args:
        what: presumed kind of the archive, for messages.

    Raises:
        InputError: the directory is damaged, contains an entry twice, or claims far more bytes than the file can hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except DAMAGE as error:
        raise refused(
            path,
            expected=what,
            received=f"a zip archive that is cut off or damaged ({first_line(error)})",
        ) from error
    names = [entry.filename for entry in infos]
    doubled = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if doubled:
        raise refused(path, expected=what, received=f"an archive that holds {', '.join(doubled[:3])} more than once")
    size = path.stat().st_size
    unpacked = sum(entry.file_size for entry in infos)
    if unpacked > max(EXPANSION * size, FLOOR):
        raise refused(
            path,
            expected=f"{what} that unpacks to at most {EXPANSION} times its size ({size} bytes)",
            received=f"an archive that says it unpacks to {unpacked} bytes",
            remedy="unpack it by hand if you trust it, and store it uncompressed",
        )
    return infos


def check_stored(path: Path, infos: Sequence[zipfile.ZipInfo], what: str) -> None:
    """Checks that entries are uncompressed and have the right checksums, and so finds damage inside tensors.

    Writers without checksums write zero; such entries are not checked.

    Raises:
        InputError: an entry is compressed or damaged.
    """
    compressed = [entry.filename for entry in infos if entry.compress_type != zipfile.ZIP_STORED]
    if compressed:
        raise refused(
            path,
            expected=f"{what} with its entries stored as they are",
            received=f"compressed entries ({compressed[0]}, {len(compressed)} in all)",
            remedy="unpack the archive and zip it again with `zip -0 -r`, or save the tensors again",
        )
    try:
        broken = [entry.filename for entry in infos if entry.CRC and _checksum(path, entry) != entry.CRC]
    except DAMAGE as error:
        raise refused(path, expected=what, received=f"a damaged archive ({first_line(error)})") from error
    if broken:
        raise refused(path, expected=what, received=f"an archive whose entry {broken[0]} does not match its checksum")


def stored_bytes(path: Path, entry: zipfile.ZipInfo) -> bytes:
    """The contents of an uncompressed entry."""
    return b"".join(_chunks(path, entry))


def begin_of(path: Path, entry: zipfile.ZipInfo) -> int:
    """The offset of an entry's contents in the file."""
    with open(path, "rb") as file:
        return _seek(file, entry)


def _checksum(path: Path, entry: zipfile.ZipInfo) -> int:
    checksum = 0
    for chunk in _chunks(path, entry):
        checksum = zlib.crc32(chunk, checksum)
    return checksum


def _chunks(path: Path, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    with open(path, "rb") as file:
        _seek(file, entry)
        left = entry.file_size
        while left:
            chunk = file.read(min(left, _CHUNK))
            if not chunk:
                raise EOFError(f"the file ends inside {entry.filename}")
            left -= len(chunk)
            yield chunk


def _seek(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    file.seek(entry.header_offset)
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no entry where {entry.filename} should begin")
    return file.seek(name_length + extra_length, os.SEEK_CUR)
