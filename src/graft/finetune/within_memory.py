"""Training that survives a lack of memory, with the same steps in smaller batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import lightning as L
import torch

from graft.config.faults import one_line
from graft.finetune.checkpoint import FOLDER, LAST
from graft.finetune.head_loop import HeadLoop
from graft.finetune.module import FineTuning
from graft.finetune.shrink import Batched, Beginning, free_memory, with_smaller_batches
from graft.system.stopping import StopSignals


def train_within_memory(
    tuning: FineTuning,
    datamodule: Batched,
    folder: Path,
    new_trainer: Callable[[], L.Trainer | HeadLoop],
    signals: StopSignals,
    beginning: Beginning,
    start: Path | None,
    say: Callable[[str], None],
) -> L.Trainer | HeadLoop:
    """Trains, and if memory does not suffice, continues from the last checkpoint with smaller batches.

    Args:
        new_trainer: creates the trainer of each attempt.
        beginning: the initial values of what training changes, to start again if no checkpoint was written.
        start: the checkpoint to resume from; None: start from the beginning.

    Returns:
        The trainer that finished.
    """
    first = start
    while True:
        lightning = new_trainer()
        try:
            with signals.deferred():
                data = cast(L.LightningDataModule, datamodule)
                lightning.fit(tuning, datamodule=data, ckpt_path=start, weights_only=True)
            return lightning
        except torch.OutOfMemoryError as error:
            reason = one_line(error)
        plan = with_smaller_batches(tuning.plan, datamodule, reason, say)
        del lightning
        free_memory()
        start = last if (last := folder / FOLDER / LAST).exists() else first
        if start is None:
            beginning.restore()
        tuning.forget()
        tuning.adopt(plan.derived(decisions=()))
