"""graft's own training: `python train.py`'s, up to where it fits, with its own loader, which is watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.composed import composed
from benchmarks.peers.stopwatch import Stopwatch
from benchmarks.task import Outcome, Task
from benchmarks.training import RUN, command
from graft.config.schema import Config
from graft.data.datamodule import DataModule
from graft.data.datasets import load_table
from graft.data.loader import KeyedLoader
from graft.finetune.fit import fit
from graft.finetune.module import FineTuning
from graft.models.network import network_for
from graft.pipeline.features import compute_features
from graft.pipeline.step_search import with_fastest_step
from graft.pipeline.training import tuning_of
from graft.plan.plan import make_plan
from graft.system.processes import say
from graft.transfer import inject
from graft.transfer.chosen import open_chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A run that has yet to be fitted."""

    config: Config
    data: DataModule
    tuning: FineTuning
    trained: torch.nn.Module
    """The network, or of it what lies behind the kept features."""


class Watched:
    """A training loader that tells when a step has ended: when it is asked for the next batch.

    (Of a loader whose length is known, Lightning asks for one batch at a time.)
    """

    def __init__(self, loader: KeyedLoader, stepped: Callable[[], object]) -> None:
        self.loader, self.stepped = loader, stepped

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for batch in self.loader:
            yield batch
            self.stepped()


def ready(task: Task, folder: Path) -> Ready:
    """Frozen layers give kept features, below `folder`; where nothing is frozen, nothing is kept."""
    cache = "none" if task.freeze == "none" else "features"
    config = composed(*command(task, folder, cache=cache)[2:], "trainer.progress=false")
    table = load_table(config.data)
    plan = make_plan(config, table, lambda: open_chosen(config.network))
    network = network_for(config.network, len(table.classes))
    with open_chosen(config.network) as donor:
        inject(plan.ledger, donor, network.module)
    data = DataModule(
        table, config.data, config.augment, network.preprocess, seed=config.seed, cache=config.cache, fewest=plan.fewest
    )
    behind = compute_features(plan, network, data).behind
    tuning = tuning_of(plan, network, behind, None)
    if task.tune:
        place = folder / RUN
        place.mkdir()
        plan = with_fastest_step(plan, tuning, data, place, say)
        tuning = tuning_of(plan, network, behind, None)
    return Ready(config=plan.config, data=data, tuning=tuning, trained=next(iter(behind.values()), network.module))


def train(task: Task, weights: Path, watch: Stopwatch) -> Outcome:
    run = ready(task, weights.parent)
    run.data.serve(run.tuning.kept_at)
    loader = Watched(run.data.train_dataloader(), watch.stepped)
    run.data.train_dataloader = lambda: loader  # pyright: ignore[reportAttributeAccessIssue]
    config = run.config
    result = fit(
        run.tuning, run.data, weights.parent / RUN,
        trainer=config.trainer, checkpoint=config.checkpoint, resume="never",
    )  # fmt: skip
    accuracy = result.metrics.get("test/accuracy", result.metrics["val/accuracy"])
    return watch.outcome(accuracy=accuracy, images=len(run.data.table.train))
