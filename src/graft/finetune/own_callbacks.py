"""Lightning callbacks and loggers of a user's own, by import path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.loggers import Logger

from graft.config.faults import InputError
from graft.config.import_path import call_object, check_arguments, import_object, takes

TARGET = "_target_"
NAMES: dict[type[Any], str] = {L.Callback: "lightning.pytorch.Callback", Logger: "lightning.pytorch.loggers.Logger"}
Kind = TypeVar("Kind")
Entries = Mapping[str, Mapping[str, Any]]


def make_callbacks(entries: Entries) -> list[L.Callback]:
    """The callbacks of `callbacks`."""
    return _make("callbacks", entries, L.Callback, {})


def check_callbacks(entries: Entries) -> None:
    """Raises InputError for a callback that `make_callbacks` would refuse, as far as it shows without making it."""
    _check("callbacks", entries, L.Callback, {})


def make_own_loggers(entries: Entries, folder: Path) -> list[Logger]:
    """The loggers of `logger.own`, which write into the run's folder unless they say otherwise."""
    return _make("logger.own", entries, Logger, {"save_dir": folder})


def check_loggers(entries: Entries) -> None:
    """Raises InputError for a logger that `make_own_loggers` would refuse, as far as it shows without making it."""
    _check("logger.own", entries, Logger, {"save_dir": ""})


def _make(key: str, entries: Entries, kind: type[Kind], defaults: Mapping[str, Any]) -> list[Kind]:
    """The objects of a config, in its order.

    Args:
        key: the config's, for messages.
        kind: of which class they must be.
        defaults: arguments that an entry may set itself, for those who take them.

    Raises:
        InputError: one cannot be imported or made, or is of another kind.
    """
    objects: list[Kind] = []
    for name, entry in entries.items():
        path = entry[TARGET]
        value = call_object(f"{key}.{name}", path, **_arguments(f"{key}.{name}", entry, defaults))
        if not isinstance(value, kind):
            raise _other(f"{key}.{name}", path, kind, type(value).__name__)
        objects.append(value)
    return objects


def _check(key: str, entries: Entries, kind: type[Any], defaults: Mapping[str, Any]) -> None:
    """Raises InputError for an entry that `_make` would refuse."""
    for name, entry in entries.items():
        full, path = f"{key}.{name}", entry[TARGET]
        target = import_object(full, path)
        if isinstance(target, type) and not issubclass(target, kind):
            raise _other(full, path, kind, "class that is none")
        if callable(target):
            check_arguments(full, path, target, (), _arguments(full, entry, defaults))


def _arguments(key: str, entry: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    target = import_object(key, entry[TARGET])
    more = {name: value for name, value in defaults.items() if callable(target) and takes(target, name)}
    return {**more, **{name: value for name, value in entry.items() if name != TARGET}}


def _other(key: str, path: str, kind: type[Any], received: str) -> InputError:
    return InputError(
        f"{key}: expected {path} to be a {NAMES[kind]}, received a {received}; try a class derived from it"
    )
