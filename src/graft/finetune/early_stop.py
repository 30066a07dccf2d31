"""Early stopping, as a function of the metrics of all epochs. Checkpoints store these, so a resumed run stops alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from graft.config.figures import ranking
from graft.config.schema import CheckpointConfig
from graft.finetune.module import FineTuning


def has_stalled(history: Sequence[Mapping[str, Any]], checkpoint: CheckpointConfig, patience: int) -> bool:
    """Whether the monitored metric was best `patience` or more epochs ago. NaN and infinity do not count."""
    ranked = ranking([row[checkpoint.monitor] for row in history], checkpoint.direction)
    return len(history) - (ranked[0] + 1 if ranked else 0) >= patience


class EarlyStop(Callback):
    """Ends the training after the epoch in which the metric stalls. Must follow the callback that completes the row.

    Args:
        say: prints a line.
    """

    def __init__(self, checkpoint: CheckpointConfig, patience: int, say: Callable[[str], None]) -> None:
        self.checkpoint, self.patience, self.say = checkpoint, patience, say

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = self._has_stalled(pl_module)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = self._has_stalled(pl_module)
        if trainer.should_stop:
            epochs = f"{self.patience} epoch{'s' if self.patience > 1 else ''}"
            self.say(f"stopped early: {self.checkpoint.monitor} has not improved for {epochs}")

    def _has_stalled(self, module: L.LightningModule) -> bool:
        return has_stalled(cast(FineTuning, module).history, self.checkpoint, self.patience)
