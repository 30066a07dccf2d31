"""What a benchmark compares: graft's way with the plain one, on something both are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One comparison, ready to be timed."""

    what: str
    """What both do, with its size."""
    ours: Callable[[], object]
    reference: Callable[[], object]
    ours_name: str
    reference_name: str
    limit: float
    """The ratio of times that graft promises not to exceed."""
    size: int | None = None
    """Bytes that peak memory is compared with; None: memory is not measured."""
    memory_limit: float | None = None
    """Peak extra memory over `size` that graft promises not to exceed."""


class MakeCase(Protocol):
    """Builds a case; what it needs on disk it writes below `folder`, which is removed afterwards."""

    def __call__(self, model: str, folder: Path) -> Case: ...
