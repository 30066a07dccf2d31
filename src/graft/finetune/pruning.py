"""A trial that promises little is stopped amid its training; all processes that train it leave together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import lightning as L
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from graft.finetune.module import FineTuning


class Watcher(Protocol):
    """Who decides, from what each epoch measured."""

    def should_stop(self, step: int, figures: Mapping[str, Any]) -> bool:
        """Asked in one process only, after each epoch (counted from 0)."""
        ...


class Pruned(Exception):
    """The training was stopped on purpose."""

    def __init__(self, history: list[dict[str, Any]]) -> None:
        super().__init__(f"stopped early, after epoch {len(history)}")
        self.history = history
        """A row per epoch."""


class Pruning(Callback):
    """Asks the watcher after each epoch. Comes after the callback that ends the epoch's row."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        history = cast(FineTuning, pl_module).history
        stop = trainer.is_global_zero and self.watcher.should_stop(len(history) - 1, history[-1])
        if trainer.strategy.broadcast(stop):
            raise Pruned(history)
