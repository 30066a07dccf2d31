"""Decisions of unfreeze=plateau when a monitored metric stalls, as a pure function of the measured values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graft.finetune.freeze import Frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class Plateau:
    """The sequence of freeze states, one for each time that the metric stalls, and the definition of stalling."""

    monitor: str
    """The monitored metric of each epoch, such as val/loss."""
    falls: bool
    """Whether lower values are better."""
    patience: int
    """Number of epochs without improvement after which the next state begins."""
    min_delta: float
    """An improvement must be larger than this."""
    releases: tuple[Frozen, ...]

    def decided(self, values: Sequence[float]) -> list[int]:
        """The epochs, counted from 0, after which the next state is due.

        An epoch is an improvement if it beats the best one so far in all phases. The count of epochs without
        improvement restarts at each release.

        Args:
            values: the metric after each epoch.
        """
        best, waited = math.nan, 0
        epochs: list[int] = []
        for epoch, value in enumerate(values):
            if self._improves(value, best):
                best, waited = value, 0
            elif epoch:  # the first is what the others are compared with, even where it is no number
                waited += 1
            if waited == self.patience and len(epochs) < len(self.releases):
                epochs.append(epoch)
                waited = 0
        return epochs

    def _improves(self, value: float, best: float) -> bool:
        if not math.isfinite(value):
            return False
        if math.isnan(best):
            return True
        return value < best - self.min_delta if self.falls else value > best + self.min_delta

    def reachable(self, epochs: int) -> tuple[Frozen, ...]:
        """The states that can be reached in this many epochs if there is never an improvement."""
        due = self.decided([0.0] * (epochs - 1))  # what the last epoch's end decides begins no phase
        return self.releases[: len(due)]

    def __str__(self) -> str:
        epochs = "1 epoch" if self.patience == 1 else f"{self.patience} epochs"
        least = f" by more than {self.min_delta:g}" if self.min_delta else ""
        return f"decided by {self.monitor}, each time it has not improved{least} for {epochs}"
