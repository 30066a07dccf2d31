"""Early stopping: a function of the epochs' figures, which checkpoints carry, so that a resumed run stops alike."""

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
    """Whether the monitored figure's best epoch is so many epochs ago; NaN and infinity are no improvement."""
    ranked = ranking([row[checkpoint.monitor] for row in history], checkpoint.direction)
    return len(history) - (ranked[0] + 1 if ranked else 0) >= patience


class EarlyStop(Callback):
    """Ends the training behind the epoch at which the figure has stalled. Comes after what ends the epoch's row.

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
