"""A training's side of taking turns: behind each step it says what that took, and waits for the next turn."""

from __future__ import annotations

import json
from time import perf_counter, process_time
from typing import TextIO


class Turns:
    """Called behind each step.

    Args:
        told: where [seconds, seconds of processor time] go, a line a step; the first with all that led up to it.
        words: a line each time that the training may go on.
    """

    def __init__(self, told: TextIO, words: TextIO) -> None:
        self.told, self.words = told, words
        self._began, self._before = perf_counter(), process_time()

    def __call__(self) -> None:
        """Raises SystemExit where nobody is left to give the word."""
        print(json.dumps([perf_counter() - self._began, process_time() - self._before]), file=self.told, flush=True)
        if not self.words.readline():
            raise SystemExit
        self._began, self._before = perf_counter(), process_time()
