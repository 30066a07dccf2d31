"""Lightning callbacks of a user's own, by import path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L

from graft.config.faults import InputError
from graft.config.import_path import call_object, check_arguments, import_object

TARGET = "_target_"


def make_callbacks(entries: Mapping[str, Mapping[str, Any]]) -> list[L.Callback]:
    """The callbacks of a config, in its order.

    Raises:
        InputError: one cannot be imported or made, or is no Lightning callback.
    """
    callbacks: list[L.Callback] = []
    for name, entry in entries.items():
        callback = call_object(f"callbacks.{name}", entry[TARGET], **_arguments(entry))
        if not isinstance(callback, L.Callback):
            raise _other(name, entry[TARGET], type(callback).__name__)
        callbacks.append(callback)
    return callbacks


def check_callbacks(entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises InputError for a callback that `make_callbacks` would refuse, as far as it shows without making it."""
    for name, entry in entries.items():
        key, path = f"callbacks.{name}", entry[TARGET]
        target = import_object(key, path)
        if isinstance(target, type) and not issubclass(target, L.Callback):
            raise _other(name, path, "class that is none")
        if callable(target):
            check_arguments(key, path, target, (), _arguments(entry))


def _arguments(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != TARGET}


def _other(name: str, path: str, received: str) -> InputError:
    return InputError(
        f"callbacks.{name}: expected {path} to be a lightning.pytorch.Callback, received a {received}; try a class "
        "derived from it"
    )
