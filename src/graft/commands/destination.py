"""Checks the paths that a command will write to, before anything is read or computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from graft.config.faults import InputError
from graft.config.limits import LOCAL_FOLDER, is_url


def file_to_write(option: str, text: str, suffixes: Sequence[str] = ()) -> Path:
    """The path of the file that an option names.

    Args:
        option: the option, for messages.
        text: its value.
        suffixes: the permitted suffixes; empty: any.

    Raises:
        InputError: the suffix is another, the path is a folder, or the file cannot be written there.
    """
    _check_local(option, text)
    path = Path(text).expanduser()
    if suffixes and path.suffix.lower() not in suffixes:
        remedy = path.with_suffix(suffixes[0]) if path.name else f"out{suffixes[0]}"
        raise InputError(f"{option}: expected a file in {', '.join(suffixes)}, received {text}; try {remedy}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"{option}: expected a file in a folder that exists, received {text}; try ./{path.name}")
    _check_writable(option, text, path.absolute().parent)
    return path


def folder_to_make(option: str, text: str) -> Path:
    """The path of the folder that an option names. The folder must be missing or empty.

    Raises:
        InputError: the folder is not empty, or cannot be created.
    """
    _check_local(option, text)
    path = Path(text).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(
            f"{option}: expected a folder that does not exist yet or is empty, received {text}; try another name"
        )
    whole = path.absolute()
    _check_writable(option, text, next(place for place in (whole, *whole.parents) if place.exists()))
    return path


def _check_local(option: str, text: str) -> None:
    if is_url(text):
        raise InputError(f"{option}: expected {LOCAL_FOLDER}, or a file in one, received {text}; try FOLDER/NAME")


def _check_writable(option: str, text: str, folder: Path) -> None:
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        received = f"{text}, as {folder} cannot be written into"
        raise InputError(f"{option}: expected a place that can be written to, received {received}; try another one")
