"""Stops an unpromising trial during its training. All processes that train it stop together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import lightning as L
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from graft.finetune.module import FineTuning


class Watcher(Protocol):
    """Decides from the metrics of each epoch whether to stop."""

    def should_stop(self, step: int, figures: Mapping[str, Any]) -> bool:
        """Called in one process only, after each epoch (counted from 0)."""
        ...


class Pruned(Exception):
    """The training was stopped on purpose."""

    def __init__(self, history: list[dict[str, Any]]) -> None:
        super().__init__(f"stopped early, after epoch {len(history)}")
        self.history = history
        """A row per epoch."""


class Pruning(Callback):
    """Asks the watcher after each epoch. Must come after the callback that completes the epoch's row."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        history = cast(FineTuning, pl_module).history
        stop = trainer.is_global_zero and self.watcher.should_stop(len(history) - 1, history[-1])
        if trainer.strategy.broadcast(stop):
            raise Pruned(history)
