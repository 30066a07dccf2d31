"""What happens beside the training: metrics.csv, checkpoints, and the lines a person follows."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from typing_extensions import override

from graft.config.schema import CheckpointConfig
from graft.files import write_text
from graft.finetune.checkpoint import BEST, FOLDER, LAST, give_name
from graft.finetune.module import FineTuning

METRICS_FILE = "metrics.csv"


def best_row(history: Sequence[Mapping[str, Any]], checkpoint: CheckpointConfig) -> Mapping[str, Any]:
    """The epoch that checkpoints/best.ckpt is: of equals, the earliest."""
    pick = min if checkpoint.direction == "min" else max
    return pick(history, key=lambda row: row[checkpoint.monitor])


class EpochRows(Callback):
    """Writes metrics.csv anew at each epoch's end, from the history that the checkpoint carries too."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS_FILE

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        tuning = _tuning(pl_module)
        row = tuning.finish_epoch()
        if trainer.is_global_zero:
            write_text(self.path, as_csv(tuning.history))
            for logger in trainer.loggers:
                logger.log_metrics(
                    {key: value for key, value in row.items() if isinstance(value, int | float)}, row["step"]
                )


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class Checkpoints(Checkpoint):
    """checkpoints/last.ckpt at each epoch's end and every so many steps; best.ckpt where an epoch is the best."""

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        self.folder = folder / FOLDER
        self.config = config

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every = self.config.every_n_steps
        taken = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        last = batch_idx + 1 == trainer.num_training_batches  # the epoch's end writes that one
        if every and taken and not last and trainer.global_step % every == 0:
            self._save(trainer, _tuning(pl_module))

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        tuning = _tuning(pl_module)
        self._save(trainer, tuning)
        if trainer.is_global_zero:
            keep_if_best(self.folder, tuning.history, self.config)

    def _save(self, trainer: L.Trainer, tuning: FineTuning) -> None:
        tuning.check_finite()
        trainer.save_checkpoint(self.folder / LAST)


def keep_if_best(folder: Path, history: Sequence[Mapping[str, Any]], config: CheckpointConfig) -> None:
    """Makes last.ckpt, written at the end of the history's last epoch, best.ckpt too if that epoch is the best."""
    if best_row(history, config) is history[-1]:
        give_name(folder / LAST, BEST)


class EpochLines(Callback):
    """One line an epoch; on a terminal also a bar that counts the batches."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._task = TaskID(0)

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero or not self.console.is_terminal:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self.console, transient=True)
        self._task = self._bar.add_task("", total=int(trainer.num_training_batches))
        self._bar.start()

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            name = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self._bar.update(self._task, completed=batch_idx + 1, description=name)

    @override
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description="validation")

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            line = epoch_line(_tuning(pl_module).history, trainer.max_epochs or 0)
            self.console.print(line, highlight=False, soft_wrap=True)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def epoch_line(history: Sequence[Mapping[str, Any]], epochs: int) -> str:
    """The last row in words; what is frozen only where it is news."""
    row, before = history[-1], history[-2] if len(history) > 1 else {}
    figures = [f"train loss {row['train/loss']:.4f}", f"accuracy {row['train/accuracy']:.4f}"]
    if "val/loss" in row:
        figures += [f"val loss {row['val/loss']:.4f}", f"accuracy {row['val/accuracy']:.4f}", f"F1 {row['val/f1']:.4f}"]
    return (
        f"epoch {row['epoch'] + 1}/{epochs}  {' · '.join(figures)} · lr {row['lr']:.2e}"
        f" · {row['images_per_second']:.1f} images/s"
        + (f" · frozen {row['frozen']}" if row["frozen"] != before.get("frozen") else "")
    )


def _tuning(module: L.LightningModule) -> FineTuning:
    return cast(FineTuning, module)
