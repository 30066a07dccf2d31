"""Values of Python as words of Hydra's override syntax."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from graft.config.examples import PLAIN, override_value, quoted
from graft.config.faults import InputError
from graft.config.import_path import path_of
from graft.config.keys import is_group, schema_keys


def words_of(overrides: Sequence[str], settings: Mapping[str, Any], folder: Path | str | None) -> list[str]:
    """A command line's words: the overrides, the settings as values, and the run's folder.

    Raises:
        InputError: a value that no word can say.
    """
    place = [] if folder is None else [f"hydra.run.dir={quoted(Path(folder).expanduser())}"]
    return [*overrides, *(word for name, value in settings.items() for word in _words(name, value)), *place]


def _words(name: str, value: Any) -> Iterator[str]:
    """Of a group, its option or its keys; of a key, its value. A key whose entries the user names takes a mapping."""
    key = schema_keys().get(name)
    if callable(value) and f"{name}.target" in schema_keys():  # your own: a function or class
        yield from (f"{name}=custom", f"{name}.target={path_of(name, value)}")
    elif isinstance(value, Mapping) and (is_group(name) or (key is not None and key.is_group)):
        for inner, entry in value.items():
            yield from _words(f"{name}.{inner}", entry)
    else:
        yield f"{name}={_text(name, value)}"


def _text(name: str, value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | Enum):
        return override_value(value)
    if isinstance(value, str | Path):
        plain = str(value)
        return plain if PLAIN.fullmatch(plain) and not _is_other(plain) else quoted(plain)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(name, str(key))}: {_text(name, entry)}" for key, entry in value.items()) + "}"
    if callable(value):
        return path_of(name, value)
    if isinstance(value, Sequence):
        return "[" + ", ".join(_text(name, entry) for entry in value) + "]"
    raise InputError(
        f"{name}: expected text, a number, a truth value, None, or a list or mapping of these, received a"
        f" {type(value).__name__}; try the name of a class where a key takes one, as in head.target=module.Class"
    )


def _is_other(plain: str) -> bool:
    """Whether the text would be read as a number, a truth value or null."""
    try:
        json.loads(plain.lower())
    except ValueError:
        return plain.lower() in ("inf", "nan", "none")
    return True
