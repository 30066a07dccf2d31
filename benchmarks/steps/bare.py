"""The bare cost of what trains behind kept features: forward and backward, over and over, on one batch in memory."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import torch
import torch.nn.functional as F

from benchmarks.peers.stopwatch import Stopwatch
from benchmarks.steps.by_graft import ready
from benchmarks.task import Task


def train(task: Task, weights: Path, watch: Stopwatch) -> NoReturn:
    """Without an end: whoever watches it ends it."""
    torch.set_num_threads(task.threads)
    run = ready(task, weights.parent)
    batch = next(iter(run.data.train_dataloader()))
    alone = run.trained.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    while True:
        F.cross_entropy(alone(batch["features"]), batch["target"]).backward()
        alone.zero_grad(set_to_none=True)
        watch.stepped()
