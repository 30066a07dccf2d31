"""A way's training in a process of its own, which goes on by one step each time it is measured.

Several of them take turns step by step: what disturbs the machine disturbs neighbours alike. While one steps, the
others wait for a line of text, which costs no processor time; their imports, threads and settings never meet.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Self

from benchmarks.case import Measured, Way
from benchmarks.pictures import solar_cells
from benchmarks.process import environment, last_words
from benchmarks.task import Task
from graft.config.faults import InputError, RunFailed

WARM_UP = 2  # turns that are not counted: imports, the first batch, the optimizer's state
_SPARE = 2  # batches that are never reached: some loaders fetch ahead
_GO_ON = "\n"


class Stepwise:
    """Starts with its first step and ends with the `with` statement.

    Args:
        name: of `benchmarks.steps`.
        folder: for its files; those of one folder share kept features.
    """

    def __init__(self, name: str, task: Task, folder: Path) -> None:
        self.name, self.task, self.folder = name, task, folder
        self._child: subprocess.Popen[str] | None = None
        self._said = folder / f"{name}.log"
        self._steps = 0

    def step(self) -> Measured:
        """Its next step: a batch fetched, forward, backward and the weights' update, by its own clocks.

        Raises:
            RunFailed: its training ended.
        """
        told = self._go_on()
        if isinstance(told, dict):
            raise self._ended()
        seconds, processor = told
        self._steps += 1
        return Measured(value=seconds, processor=processor, beside={"images/s": self.task.batch_size / seconds})

    def way(self, name: str) -> Way:
        return Way(name=name, measure=self.step, reached=self.reached)

    def reached(self) -> dict[str, float]:
        """Trains on to the end, which is the same number of steps for every way, and evaluates: its accuracy."""
        while not isinstance(told := self._go_on(), dict):
            pass
        return told

    def _go_on(self) -> dict[str, float] | list[float]:
        """A step's seconds and seconds of processor time; behind the last, what was reached."""
        if self._child is None:
            self._child = self._start()
        elif self._child.poll() is None:
            assert self._child.stdin is not None, "a pipe"
            self._child.stdin.write(_GO_ON)
            self._child.stdin.flush()
        assert self._child.stdout is not None, "a pipe"
        line = self._child.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> RunFailed:
        assert self._child is not None
        said = self._said.read_text(encoding="utf-8", errors="replace")
        return RunFailed(
            f"the training of {self.name} ended behind step {self._steps} with code {self._child.wait()}:"
            f" {last_words(said)}"
        )

    def _start(self) -> subprocess.Popen[str]:
        given = self.folder / f"{self.name}.json"
        self.task.write(given)
        with self._said.open("w", encoding="utf-8") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "benchmarks.steps", self.name, str(given)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
                env=environment(self.task.threads),
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.kill()  # it waits amid a training of which nothing is wanted any more
            self._child.communicate()


def cells_for(turns: int, batch_size: int, folder: Path) -> Path:
    """Solar cells for so many counted steps, and those that are not counted.

    Raises:
        InputError: there are not as many.
    """
    wanted = batch_size * (WARM_UP + turns + _SPARE)
    images = solar_cells(folder, wanted)
    found = sum(1 for _ in (images / "train").glob("*/*"))
    if found < wanted:
        most = found // batch_size - WARM_UP - _SPARE
        raise InputError(
            f"--repeats: expected a training part with {wanted} images for {turns} steps of {batch_size}, received"
            f" {found}; try fewer repeats ({most} steps at most)"
        )
    return images
