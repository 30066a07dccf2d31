"""What a run tells of its results, as a user describes it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class ResultsConfig:
    """What is told of the results beside the task's figures."""

    by: list[str] = field(default_factory=list[str])
    """csv: the table's columns by whose values every figure is told too, worst value first."""
    sensitivity: float | None = None
    """Two classes: the positive one is named from the highest probability at which this share of its validation images
    is found."""
    cost: float | None = None
    """Two classes: a missed positive costs as much as so many false alarms, and the positive class is named from the
    probability at which mistakes on validation images cost least."""
    positive: str | None = None
    """Two classes: the one that is looked for with results.sensitivity or results.cost. Null: the second."""
