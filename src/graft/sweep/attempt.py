"""An attempt at a trial: which process supervises it, how its process ended, and its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from graft.system.locks import FileLock


@dataclass(slots=True, kw_only=True)
class Claim:
    """A trial that this process supervises."""

    number: int
    choices: Mapping[str, str]
    overrides: tuple[str, ...]
    folder: Path
    attempts: int
    """Number of attempts, including this one."""
    failures: int
    """Number of failed attempts."""
    lock: FileLock

    @property
    def interruptions(self) -> int:
        """Number of attempts whose process was killed."""
        return self.attempts - self.failures - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The result of a trial."""

    state: str
    values: tuple[float, ...] = ()
    metrics: Mapping[str, Any] | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one attempt at a trial ended."""

    reason: str = ""
    """Why it failed; empty if it did not."""
    interrupted: bool = False
    """Whether it was stopped and saved its state, so that the trial can be resumed."""
    elsewhere: bool = False
    """Whether its job continues without this process. The next process of the sweep then follows it."""


class Launch(Protocol):
    """Runs these trials, and yields each with its result as it ends.

    With several slots, it is called from several threads at once.
    """

    def __call__(self, claims: Sequence[Claim]) -> Iterable[tuple[Claim, Ended]]: ...


class Interrupted(Exception):
    """The sweep was stopped. The same command resumes it."""
