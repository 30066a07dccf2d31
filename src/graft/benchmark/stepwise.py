"""graft's own training, each of its steps in turns with another step: what disturbs one disturbs its neighbour."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from graft.benchmark.case import Measure, Measured, timed
from graft.benchmark.composed import composed
from graft.data.datamodule import DataModule
from graft.data.datasets import load_table
from graft.data.loader import KeyedLoader
from graft.finetune.fit import fit
from graft.models.network import build_network
from graft.plan import make_plan
from graft.precompute import compute_features
from graft.run import tuning_of
from graft.transfer import inject
from graft.transfer.chosen import open_chosen

Batch = dict[str, torch.Tensor]
Between = Callable[[], object]
MakeBetween = Callable[[torch.nn.Module, Batch], Between]
"""Makes the other step, of the part of the network that trains and the first batch."""


class InTurns:
    """A training loader that takes the time from its handing out a batch until it is asked for the next.

    The time to fetch the batch is in it. Between two steps the other one runs. (Of a loader whose length is known,
    Lightning asks for one batch at a time.)
    """

    def __init__(self, loader: KeyedLoader, make: MakeBetween, trained: torch.nn.Module) -> None:
        self.loader, self.make, self.trained = loader, make, trained
        self.ours: list[Measured] = []
        self.other: list[Measured] = []

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.loader)
        between: Between | None = None
        while True:
            began, before = _now()
            batch = next(batches, None)
            if batch is None:
                return
            if between is None:
                between = self.make(self.trained, batch)
                yield batch  # the first step makes its optimizer's state and is not counted
                continue
            yield batch
            ended, after = _now()
            self.ours.append(Measured(value=ended - began, processor=after - before))
            self.other.append(timed(between)())


class Recorded:
    """Runs once, when its first figure is asked for, and hands the figures out one after the other."""

    def __init__(self, run: Callable[[], tuple[Sequence[Measured], Sequence[Measured]]]) -> None:
        self._run = run
        self._ours: Iterator[Measured] | None = None
        self._other: Iterator[Measured] = iter(())

    def _begin(self) -> Iterator[Measured]:
        if self._ours is None:
            ours, other = self._run()
            self._ours, self._other = iter(ours), iter(other)
        return self._ours

    @property
    def ours(self) -> Measure:
        return lambda: next(self._begin())

    @property
    def other(self) -> Measure:
        def measure() -> Measured:
            self._begin()
            return next(self._other)

        return measure


def in_turns(words: Sequence[str], folder: Path, make: MakeBetween) -> tuple[list[Measured], list[Measured]]:
    """Trains an epoch of `python train.py WORDS…` in this process; each step's time, and that of the other after it.

    Every batch but the first and the last is counted, each of the first epoch.
    """
    config = composed(*words)
    table = load_table(config.data)
    plan = make_plan(config, table, lambda: open_chosen(config))
    network = build_network(
        config.backbone, config.head, num_classes=len(table.classes), channels=config.data.channels,
        image_size=config.data.image_size, crop_fraction=config.data.crop_fraction, seed=config.seed,
    )  # fmt: skip
    with open_chosen(config) as donor:
        inject(plan.ledger, donor, network.module)
    data = DataModule(table, config.data, config.augment, network.preprocess, seed=config.seed, cache=config.cache)
    behind = compute_features(plan, network, data)
    tuning = tuning_of(plan, network, behind, None)
    data.serve(tuning.kept_at)
    turns = InTurns(data.train_dataloader(), make, next(iter(behind.values()), network.module))
    data.train_dataloader = lambda: turns  # pyright: ignore[reportAttributeAccessIssue]
    fit(tuning, data, folder, trainer=config.trainer, checkpoint=config.checkpoint, resume="never")
    return turns.ours, turns.other


def _now() -> tuple[float, float]:
    from time import perf_counter, process_time

    return perf_counter(), process_time()
