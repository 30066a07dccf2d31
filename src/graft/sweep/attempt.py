"""A trial in hand: who looks after it, how its process ended, what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from graft.system.locks import FileLock


@dataclass(slots=True, kw_only=True)
class Claim:
    """A trial that this process looks after."""

    number: int
    choices: Mapping[str, str]
    overrides: tuple[str, ...]
    folder: Path
    attempts: int
    """Times that it was begun, this one included."""
    failures: int
    """Times that it failed."""
    lock: FileLock

    @property
    def interruptions(self) -> int:
        """Times that whoever ran it was killed."""
        return self.attempts - self.failures - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What came of a trial."""

    state: str
    values: tuple[float, ...] = ()
    metrics: Mapping[str, Any] | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one attempt at a trial ended."""

    reason: str = ""
    """Why it failed; empty where it did not."""
    interrupted: bool = False
    """It was told to stop and has kept its state: it is not over."""
    elsewhere: bool = False
    """Its job lives on without this process: it is not over, and whoever comes next takes it up."""


class Launch(Protocol):
    """Runs these trials, and yields each with its end as it comes.

    With several slots it is called from several threads at once.
    """

    def __call__(self, claims: Sequence[Claim]) -> Iterable[tuple[Claim, Ended]]: ...


class Interrupted(Exception):
    """Somebody stopped the sweep; the same command goes on."""
