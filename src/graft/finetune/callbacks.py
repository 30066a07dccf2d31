"""What happens between the steps of a training: metrics rows, progress lines, checkpoints, agreement between
processes."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import distributed
from typing_extensions import override

from graft.config.choices import TaskKind
from graft.config.faults import RunFailed, one_line
from graft.config.figures import FIGURES, LOSS, own_figure, ranking
from graft.config.rules_logger import is_file_store
from graft.config.schema import CheckpointConfig, LoggerConfig
from graft.finetune.checkpoint import BEST, FOLDER, LAST, PREVIOUS, CheckpointFile, give_name, write_failure
from graft.finetune.module import FineTuning
from graft.finetune.own_callbacks import make_own_loggers
from graft.system.files import write_text
from graft.system.stopping import Stopped, StopSignals

METRICS_FILE = "metrics.csv"
PATIENCE = 50  # times that writing a checkpoint took, before the next end of an epoch is written
MOST_FIGURES = 2  # of a part in an epoch's line, beside its loss


def best_row(history: Sequence[Mapping[str, Any]], checkpoint: CheckpointConfig) -> Mapping[str, Any] | None:
    """The row of the best epoch, which becomes checkpoints/best.ckpt; the earliest if several are equal. None if no
    epoch has a finite metric.

    With checkpoint.epoch=last, it is the last epoch with a finite metric.
    """
    ranked = ranking([row[checkpoint.monitor] for row in history], checkpoint.direction)
    if not ranked:
        return None
    return history[ranked[0] if checkpoint.epoch == "best" else max(ranked)]


class EpochRows(Callback):
    """Rewrites metrics.csv at the end of each epoch, from the history that the checkpoint also contains."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS_FILE

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        tuning = _tuning(pl_module)
        row = tuning.finish_epoch()
        if trainer.is_global_zero:
            try:
                write_text(self.path, as_csv(tuning.history))
            except OSError as error:
                raise write_failure(self.path, error) from error
            for logger in trainer.loggers:
                logger.log_metrics(
                    {key: value for key, value in row.items() if isinstance(value, int | float)}, row["step"]
                )


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV text, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class Checkpoints(Checkpoint):
    """Writes checkpoints/last.ckpt at the end of an epoch, every so many steps and after a signal.

    Writes best.ckpt if an epoch is the best. previous.ckpt is the former last.ckpt.

    If epochs are so short that writing would take more than one part in PATIENCE of the time, some epochs end without a
    file. The best epoch since the last file then stays in memory. A run that is killed repeats these epochs, with the
    same results.

    Args:
        file: the trainer's interface to checkpoint files.
    """

    def __init__(
        self, folder: Path, config: CheckpointConfig, file: CheckpointFile, signals: StopSignals | None = None
    ) -> None:
        self.folder = folder / FOLDER
        self.config = config
        self.file = file
        self._due = 0.0  # when the next end of an epoch is written
        self.signals = signals or StopSignals()
        self._agreement = Agreement()
        self._amid_validation = False

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.install()
        self._agreement = Agreement()

    @override
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.install()

    @override
    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.install()

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every = self.config.every_n_steps
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        last = batch_idx + 1 == trainer.num_training_batches  # the evaluation and the epoch's end see to that one
        if last or not stepped:
            return
        stop = self._told_to_stop()
        if stop or (every and trainer.global_step % every == 0):
            self._save(trainer, _tuning(pl_module))
        self._stop(stop, _tuning(pl_module))

    @override
    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.state.fn != "fit" or not (stop := self._told_to_stop()):
            return
        self._amid_validation = True
        self._save(trainer, _tuning(pl_module))
        self._stop(stop, _tuning(pl_module))

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        tuning = _tuning(pl_module)
        stop = self._told_to_stop()
        is_best = best_row(tuning.history, self.config) is tuning.history[-1]
        if is_best:
            self.file.drop_snapshot()
        final = trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop
        if stop or final or trainer.world_size > 1 or time.monotonic() >= self._due:
            self._save(trainer, tuning)
            if trainer.is_global_zero:
                keep_if_best(self.folder, tuning.history, self.config)
        else:
            tuning.check_finite()
            if is_best:
                with self.file.in_memory(still={f"network.{name}" for name in tuning.watch.injected}):
                    trainer.save_checkpoint(self.folder / BEST)
        self._stop(stop, tuning)

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._amid_validation:
            evaluate_anew(checkpoint["loops"]["fit_loop"])

    def _save(self, trainer: L.Trainer, tuning: FineTuning) -> None:
        tuning.check_finite()
        began = time.monotonic()
        self.file.write_snapshot()  # first, as last.ckpt is to name no epoch the best that best.ckpt is not
        if trainer.is_global_zero and (self.folder / LAST).exists():
            give_name(self.folder / LAST, PREVIOUS)
        trainer.save_checkpoint(self.folder / LAST)
        now = time.monotonic()
        self._due = now + PATIENCE * (now - began)

    def _told_to_stop(self) -> int:
        return self._agreement.highest(self.signals.received or 0)

    def _stop(self, number: int, tuning: FineTuning) -> None:
        if number:
            raise Stopped(number, f"after step {tuning.global_step} of {tuning.plan.total_steps}")


def evaluate_anew(loops: dict[str, Any]) -> None:
    """Changes a training loop's saved state, taken during an evaluation, so that the whole evaluation is repeated.

    Lightning resumes an evaluation with a batch that was started but not processed, and then from its first batch on.
    """
    started = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    progress = loops["epoch_loop.val_loop.batch_progress"]
    progress.update(total=dict(started), current=dict(started), is_last_batch=False)


def keep_if_best(folder: Path, history: Sequence[Mapping[str, Any]], config: CheckpointConfig) -> None:
    """Also makes last.ckpt, written at the end of the history's last epoch, best.ckpt if that epoch is the best."""
    if best_row(history, config) is history[-1]:
        give_name(folder / LAST, BEST)


class EpochLines(Callback):
    """One line per epoch, and on a terminal a progress bar over the batches."""

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
            tuning = _tuning(pl_module)
            line = epoch_line(tuning.history, trainer.max_epochs or 0, tuning.task.kind)
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


def epoch_line(history: Sequence[Mapping[str, Any]], epochs: int, task: TaskKind) -> str:
    """The last row as text. The freeze state is included only when it has changed."""
    row, before = history[-1], history[-2] if len(history) > 1 else {}
    figures: list[str] = []
    usual = {LOSS.name, *(figure.name for figure in FIGURES[task])}
    for part in ("train", "val"):
        own = [name for key in row for place, _, name in [key.partition("/")] if place == part and name not in usual]
        of_task = (LOSS, *FIGURES[task][:MOST_FIGURES], *map(own_figure, own))
        shown = [figure for figure in of_task if f"{part}/{figure.name}" in row]
        words = [f"{figure.title} {row[f'{part}/{figure.name}']:.4f}" for figure in shown]
        figures += [f"{part} {words[0]}", *words[1:]] if words else []
    return (
        f"epoch {row['epoch']}/{epochs}  {' · '.join(figures)} · lr {row['lr']:.2e}"
        f" · {row['images_per_second']:.1f} images/s"
        + (f" · frozen {row['frozen']}" if row["frozen"] != before.get("frozen") else "")
    )


def _tuning(module: L.LightningModule) -> FineTuning:
    return cast(FineTuning, module)


GLOO = "gloo/transport"  # in what its errors say, which have no type of their own


@contextmanager
def explain_lost_process(folder: Path) -> Generator[None]:
    """Within this context, a collective that other processes have left raises an explanation.

    Raises:
        RunFailed: another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, distributed.DistError) or GLOO in str(error)):
            raise
        last = folder / FOLDER / LAST
        state = f"{last} holds everything up to here" if last.exists() else "nothing had been saved yet"
        raise RunFailed(
            f"another process of this run was lost: killed, out of memory, or its machine is gone ({one_line(error)});"
            f" {state}, and the same command goes on"
        ) from error


class Agreement:
    """Compares small numbers between all processes, which must create and call it at the same places.

    It uses gloo, so that no GPU has to be waited for.
    """

    def __init__(self) -> None:
        several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        self._group = cast("distributed.ProcessGroup", distributed.new_group(backend="gloo")) if several else None

    def highest(self, number: int) -> int:
        """The largest of the numbers that the processes pass."""
        if self._group is None:
            return number
        shared = torch.tensor(number)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX, group=self._group)
        return int(shared)


def make_loggers(config: LoggerConfig, folder: Path) -> list[Logger]:
    """The experiment trackers that the config asks for. The check of the config has verified that their packages are
    installed."""
    loggers: list[Logger] = []
    if config.tensorboard:
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
    if config.wandb != "off":
        offline = config.wandb == "offline"
        folder.mkdir(parents=True, exist_ok=True)
        loggers.append(WandbLogger(name=folder.name, save_dir=folder, project=config.project, offline=offline))
    if config.mlflow is not None:
        if is_file_store(config.mlflow):
            # MLflow keeps its store of plain files behind this word, as it puts new features into databases alone.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = config.mlflow if ":" in config.mlflow else Path(config.mlflow).absolute().as_uri()
        loggers.append(MLFlowLogger(experiment_name=config.project, run_name=folder.name, tracking_uri=uri))
    return [*loggers, *make_own_loggers(config.own, folder)]
