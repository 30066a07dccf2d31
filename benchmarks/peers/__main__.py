"""Runs one peer on a task, and writes what came of it."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from benchmarks.peers import PEERS
from benchmarks.peers.stopwatch import Stopwatch
from benchmarks.task import Outcome, Task


class PeerModule(Protocol):
    def train(self, task: Task, weights: Path, watch: Stopwatch) -> Outcome:
        """Trains, tells the watch of it, and leaves the weights at that place."""
        ...


def main(name: str, task: str, outcome: str) -> None:
    given = Task.read(Path(task))
    peer = cast(PeerModule, import_module(PEERS[name].module))
    peer.train(given, Path(outcome).with_suffix(".weights"), Stopwatch()).write(Path(outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
