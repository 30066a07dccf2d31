"""Trains one way's task, and waits behind each step until it is told to go on."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from benchmarks.peers.stopwatch import Stopwatch
from benchmarks.steps import MODULES
from benchmarks.steps.turns import Turns
from benchmarks.task import Outcome, Task


class Training(Protocol):
    def train(self, task: Task, weights: Path, watch: Stopwatch) -> Outcome:
        """Trains, and calls `watch.stepped()` behind each step; its files go beside the weights' place."""
        ...


def main(name: str, task: str) -> None:
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no step's time
    given, place = Task.read(Path(task)), Path(task)
    way = cast(Training, import_module(MODULES[name]))
    outcome = way.train(given, place.with_suffix(".weights"), Stopwatch(Turns(told, sys.stdin)))
    print(json.dumps({"accuracy": outcome.accuracy}), file=told, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
