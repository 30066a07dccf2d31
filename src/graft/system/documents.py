"""JSON and YAML of other people's: regular files of a limited size and depth, to plain values."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import IO, Any, cast

import yaml

MOST_BYTES = 1 << 28
"""Of one file. A ledger has some 200 bytes a tensor."""
MOST_YAML_BYTES = 1 << 22
"""Of one YAML file, which takes a second a megabyte."""
MOST_DEPTH = 40
MOST_DIGITS = 18


class Malformed(ValueError):
    """A file that holds no document; str() says why."""


def open_regular(path: Path | str) -> IO[bytes]:
    """Opens a regular file for reading.

    Raises:
        FileNotFoundError: there is none.
        Malformed: a FIFO, a device or a folder, from which reading might never end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise Malformed(error.strerror or type(error).__name__) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Malformed("no regular file")
    return open(descriptor, "rb")


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file.

    Raises:
        FileNotFoundError: there is none.
        Malformed: a FIFO, a device, a folder, or more bytes than `most`.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise Malformed(f"more than {most:,} bytes")
        return file.read()


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(str(error)) from None


def read_json(path: Path) -> Any:
    """The document: finite numbers of at most 18 digits before the point, nested 40 deep at most.

    Raises:
        FileNotFoundError: there is no such file.
        Malformed: no such document.
    """
    return json_values(read_text(path))


def json_values(text: str) -> Any:
    """As `read_json`, of a text."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_int=_whole, parse_float=_finite)
    except RecursionError:
        raise Malformed(f"values nested more than {MOST_DEPTH} deep") from None
    except Malformed:
        raise
    except ValueError as error:
        raise Malformed(" ".join(str(error).split())) from None
    _check_depth(value)
    return value


def yaml_values(text: str) -> Any:
    """The plain values of a YAML document without aliases, which can stand for more than memory holds.

    Raises:
        Malformed: no such document.
    """
    if len(text) > MOST_YAML_BYTES:
        raise Malformed(f"more than {MOST_YAML_BYTES:,} letters")
    try:
        value = yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise Malformed(f"values nested more than {MOST_DEPTH} deep") from None
    except Malformed:
        raise
    except (yaml.YAMLError, ValueError) as error:  # a date of month 13 is a ValueError
        raise Malformed(" ".join(str(error).split())) from None
    _check_depth(value)
    return value


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise Malformed("an alias")
        return super().compose_node(parent, index)


def _refuse_constant(text: str) -> Any:
    raise Malformed(f"the number {text}")


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise Malformed(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise Malformed(f"the number {text[:20]}")
    return value


def _check_depth(document: Any) -> None:
    level: list[Any] = [document]
    for _ in range(MOST_DEPTH):
        containers = [value for value in level if isinstance(value, dict | list)]
        if not containers:
            return
        level = [
            inner
            for value in containers
            for inner in (cast("dict[Any, Any]", value).values() if isinstance(value, dict) else value)
        ]
    raise Malformed(f"values nested more than {MOST_DEPTH} deep")
