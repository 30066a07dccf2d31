"""The seconds of each epoch, with and without its evaluation; and a word behind each step."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter, process_time

from benchmarks.task import Outcome


class Stopwatch:
    """Told when a step ends, when an epoch's training begins and ends, and when its evaluation has ended.

    Args:
        stepped: called behind each training step; what it takes is the training's.
    """

    def __init__(self, stepped: Callable[[], object] = lambda: None) -> None:
        self.stepped = stepped
        self.training: list[float] = []
        self.epochs: list[tuple[float, float]] = []
        self._began = self._saved = _now()

    def begin(self) -> None:
        self._began = _now()

    def trained(self) -> None:
        self.training.append(_since(self._began)[0])

    def evaluated(self) -> None:
        self.epochs.append(_since(self._began))

    def saved(self) -> None:
        """The weights are on disk; what follows, nobody waits for."""
        self._saved = _now()

    def outcome(self, *, accuracy: float, images: int) -> Outcome:
        return Outcome(
            training=self.training, epochs=self.epochs, after=_since(self._saved), accuracy=accuracy, images=images
        )


def _now() -> tuple[float, float]:
    return perf_counter(), process_time()


def _since(then: tuple[float, float]) -> tuple[float, float]:
    wall, processor = _now()
    return wall - then[0], processor - then[1]
