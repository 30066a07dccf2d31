"""Recognises the format of a donor's file by its first bytes, and explains why others are refused."""

from __future__ import annotations

import os
import pickle
import stat
import struct
import zipfile
import zlib
from enum import Enum
from pathlib import Path

from graft.config.faults import InputError, nearest

# What parsers raise on bytes that they did not write. Listed rather than `Exception`, so that a mistake of ours that is
# none of these still shows itself as one.
DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)

COPY_AGAIN = "copy or download the file again, or set donor.path to another"


def refused(path: Path | str, *, expected: str, received: str, remedy: str = COPY_AGAIN) -> InputError:
    """The error for a donor that cannot be used."""
    return InputError(f"donor {path}: expected {expected}, received {received}; try: {remedy}")


def first_line(error: BaseException | str, limit: int = 200) -> str:
    """The message of a parser's error, shortened for quoting."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]}…"


EXPECTED = "a PyTorch, safetensors, NumPy .npz or Keras file, a run's folder, or a folder of such files"


_OTHERS = (
    (b"version https://git-lfs", "a git-lfs pointer instead of the file itself", "git lfs pull"),
    ((b"<!doctype", b"<!DOCTYPE", b"<html", b"<HTML"), "a web page, as a failed download leaves it", COPY_AGAIN),
    (b"\x93NUMPY", "a single NumPy array without a name", "np.savez(path, name=array)"),
    ((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"), "a compressed file", "unpack it"),
)


class Format(Enum):
    folder = "folder"
    torch = "torch"
    safetensors = "safetensors"
    shards = "shards"
    npz = "npz"
    keras = "keras"
    hdf5 = "hdf5"
    module = "module"
    """A live module by its import path, not a file."""


def sniff(path: Path) -> Format:
    """The format of the file or folder at `path`.

    Raises:
        InputError: it does not exist, cannot be read, or has none of the formats.
    """
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        return Format.folder
    if not stat.S_ISREG(mode):
        raise refused(path, expected=EXPECTED, received="a device, pipe or socket", remedy="a regular file")
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise refused(path, expected="a readable file", received=_why(error), remedy=f"chmod u+r {path}") from error
    return _of_bytes(path, head)


def is_keras(path: str) -> bool:
    """Whether the path is a Keras file. In doubt it is false, and the reader has to report the problem."""
    try:
        return sniff(Path(path).expanduser()) in (Format.keras, Format.hdf5)
    except InputError:
        return False


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        raise _missing(path) from None
    except NotADirectoryError:
        raise _missing(path) from None
    except (OSError, ValueError) as error:
        raise refused(path, expected=EXPECTED, received=f"a path that cannot be opened ({_why(error)})") from error


def _missing(path: Path) -> InputError:
    if path.is_symlink():
        target = os.readlink(path)
        return refused(path, expected=EXPECTED, received=f"a link to {target}, which does not exist")
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), Path(path.anchor or "."))
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        names = []
    below = path.absolute().relative_to(folder).parts[0]
    close = ", ".join(str(folder / name) for name in nearest(below, names))
    return refused(path, expected=EXPECTED, received="no such file", remedy=close or f"a file in {folder}")


def _why(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


def _of_bytes(path: Path, head: bytes) -> Format:
    if not head:
        raise refused(path, expected=EXPECTED, received="an empty file")
    if head.startswith(b"PK"):
        return _of_zip(path)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return Format.hdf5
    if len(head) > 8 and head[8:9] == b"{":
        return Format.safetensors
    if head.startswith(b"\x80"):
        return Format.torch
    if head.lstrip()[:1] == b"{":
        return Format.shards
    received, remedy = _other(head)
    raise refused(path, expected=EXPECTED, received=received, remedy=remedy)


def _of_zip(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    # ValueError: an offset that cannot be; RuntimeError: a version or feature of zip that this Python cannot read.
    except (zipfile.BadZipFile, ValueError, OSError, RuntimeError) as error:
        raise refused(
            path,
            expected=EXPECTED,
            received=f"a zip archive that is cut off or damaged ({error})",
        ) from error
    if any(name.endswith("/data.pkl") and name.count("/") == 1 for name in names):
        return Format.torch
    if "model.weights.h5" in names:
        return Format.keras
    if names and all(name.endswith(".npy") for name in names):
        return Format.npz
    shown = ", ".join(names[:5]) or "nothing"
    raise refused(path, expected=EXPECTED, received=f"a zip archive of something else ({shown})", remedy="unpack it")


def _other(head: bytes) -> tuple[str, str]:
    """What unusable content most likely is, and what to do about it."""
    for beginning, kind, remedy in _OTHERS:
        if head.lstrip().startswith(beginning):
            return kind, remedy
    if head[257:262] == b"ustar":
        return "a tar archive (torch.save wrote such before 0.1.10; to read them means running code)", "a newer file"
    if all(byte in b"\t\n\r\f" or byte >= 32 for byte in head):
        return f"text that begins {head[:40].decode('utf-8', 'replace')!r}", COPY_AGAIN
    return f"bytes of no known format, beginning {head[:8].hex(' ')}", COPY_AGAIN
