"""Atomic writes, and hashes that identify files."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

LEFTOVER = r"\.{name}\.[0-9a-f]{{16}}\.tmp"


@contextmanager
def atomic_path(path: Path | str) -> Generator[Path]:
    """A path of the same name, in a temporary folder beside `path`, to write to. At the end of the context, the file is
    flushed to disk and renamed to `path`.

    The folder's name cannot be guessed, so that threads, processes, and containers with equal process ids never share
    one. It is locked while its writer lives; the unlocked ones that killed writers of this path have left are removed.
    """
    path = Path(path)
    remove_leftovers(path.parent, re.escape(path.name))
    folder = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with _locked(folder):
            temporary = folder / path.name
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _flush(path.parent)


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Creates the folder and holds its lock. If another writer removes it between the two, it is created again."""
    while True:
        folder.mkdir(0o700)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            with suppress(OSError):  # a file system without locks: nobody removes leftovers there
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            if folder.exists():
                yield
                return
        finally:
            os.close(descriptor)


def remove_leftovers(folder: Path, name: str) -> None:
    """Removes what killed writers have left in the folder.

    Args:
        name: regular expression for the names of the files that they wrote.
    """
    pattern = re.compile(LEFTOVER.format(name=name))
    with suppress(OSError):  # no such folder
        for leftover in filter(pattern.fullmatch, os.listdir(folder)):
            _remove_abandoned(folder / leftover)


def _remove_abandoned(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    except OSError:  # finished meanwhile; another user's
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # its writer lives, or the file system has no locks
        pass
    finally:
        os.close(descriptor)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path | str, text: str) -> None:
    """Writes UTF-8 atomically. Names of files that are not UTF-8 (surrogates in Python) are written as escapes."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path | str, value: Any, default: Callable[[Any], Any] | None = None) -> None:
    """Writes JSON atomically. NaN and infinities are written as null, because JSON does not have them."""
    write_text(path, json_text(value, indent=1, default=default) + "\n")


def json_text(value: Any, **options: Any) -> str:
    """Like `json.dumps`, with null for NaN and infinities."""
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in cast("list[Any]", value)]
    return value


def sha256(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
