"""What a person is told when something they gave is wrong. Imports nothing heavy, so that the answer is quick."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """The config or the input is wrong; nothing was started (exit code 2)."""


class RunFailed(RuntimeError):
    """The run began and could not be finished (exit code 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One mistake: where, what was expected, what was received, what to type instead."""

    key: str
    expected: str
    received: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"; try {self.remedy}" if self.remedy else ""
        return f"{self.key}: expected {self.expected}, received {self.received}{remedy}"


class ConfigError(InputError):
    """Every fault of a config, reported together."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class Faults:
    """Runs the checks that can still be run, and raises once with everything that they said."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def attempt(self, check: Callable[[], T]) -> T | None:
        try:
            return check()
        except InputError as error:
            self.texts.append(str(error))
            return None

    def settle(self) -> None:
        if self.texts:
            raise InputError("\n".join(self.texts))


def nearest(name: str, choices: Iterable[str], count: int = 3) -> list[str]:
    """The choices that look most like name, best first."""
    return get_close_matches(name, list(choices), n=count, cutoff=0.5)


def one_line(error: BaseException) -> str:
    """What an exception says, on one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


FORESEEN = (InputError, RunFailed, OSError, MemoryError)
"""What a command answers in words: the user's mistake, a run that failed, the machine's limits. Any other error is a
mistake of graft's, whose traceback is wanted, and so is one of these that `wants_traceback`."""
PACKAGE = Path(__file__).resolve().parents[1]


def wants_traceback(error: BaseException) -> bool:
    """Of a foreseen error: asked for by HYDRA_FULL_ERROR=1, or about a file of graft's own, which nobody else can
    have misplaced.
    """
    names = (getattr(error, name, None) for name in ("filename", "filename2"))
    own = any(isinstance(name, str | os.PathLike) and Path(name).resolve().is_relative_to(PACKAGE) for name in names)
    return own or os.environ.get("HYDRA_FULL_ERROR") == "1"


def reason_of(error: BaseException) -> str:
    """Why a run ended: what graft says itself, or an error that it did not foresee, with its type."""
    return str(error) if isinstance(error, InputError | RunFailed) else f"{type(error).__name__}: {error}"
