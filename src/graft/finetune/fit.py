"""Trains a FineTuning on its data and evaluates the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler, PyTorchProfiler
from rich.console import Console

from graft.config.faults import ConfigError, InputError, RunFailed
from graft.config.figures import monitor_fault
from graft.config.schema import CheckpointConfig, TrainerConfig
from graft.finetune.callbacks import Checkpoints, EpochLines, EpochRows, best_row, explain_lost_process
from graft.finetune.checkpoint import BEST, FOLDER, LAST, CheckpointFile, read_checkpoint
from graft.finetune.early_stop import EarlyStop
from graft.finetune.fit_result import FitResult, outcome_of, ways_of
from graft.finetune.hardware import hardware, known_to_be_none, precisions, quiet_lightning, strategy
from graft.finetune.head_loop import HeadLoop, trains_head_alone
from graft.finetune.methods.recompute import recomputed
from graft.finetune.metrics import Outputs, Shares
from graft.finetune.module import FineTuning
from graft.finetune.pruning import Pruning, Watcher
from graft.finetune.resume import Resumption, prepare
from graft.finetune.shrink import Beginning
from graft.finetune.state import STATE
from graft.finetune.training_plan import Timeline
from graft.finetune.within_memory import train_within_memory
from graft.system.machine import denormals_as_zero, keep_freed_memory, threads
from graft.system.processes import is_first
from graft.system.stopping import StopSignals

REMEDIES = "try a lower optimizer.lr, trainer.clip_norm=1 or trainer.precision=32-true"
TRACED = 5  # steps in a trace of torch's profiler


class Batches(Protocol):
    """The data of a training: a LightningDataModule.

    To resume within an epoch, its training loader needs `state_dict` and `load_state_dict`, which Lightning calls.
    """

    batch_size: int
    """Images per batch, for loaders created after it is set."""

    def can_train_by(self, batch_size: int) -> bool:
        """Whether the training loader can be created with this batch size."""
        ...

    def train_dataloader(self) -> Sized: ...
    def val_dataloader(self) -> Sized: ...
    def test_dataloader(self) -> Sized | None:
        """None if there are no test images."""
        ...


def fit(
    tuning: FineTuning,
    datamodule: Batches,
    folder: Path | str,
    *,
    trainer: TrainerConfig,
    checkpoint: CheckpointConfig | None = None,
    resume: str | Resumption = "auto",
    loggers: Sequence[Logger] = (),
    console: Console | None = None,
    signals: StopSignals | None = None,
    watcher: Watcher | None = None,
    callbacks: Sequence[L.Callback] = (),
) -> FitResult:
    """Trains, loads the best epoch's weights and evaluates them. Mutates the FineTuning's network.

    Args:
        signals: the active signal handlers. A signal during training ends it after the current step, in all processes,
            with a checkpoint.
        callbacks: the user's own, called after graft's.

    Raises:
        InputError: a setting cannot be fulfilled, or a checkpoint does not belong to this run.
        RunFailed: the loss became NaN or infinite, no epoch has a finite monitored metric, or a checkpoint could
            not be written.
        Stopped: a signal arrived.
        Pruned: the watcher stopped the training.
    """
    checkpoint, folder = checkpoint or CheckpointConfig(), Path(folder)
    console, signals = console or Console(stderr=True, quiet=not is_first()), signals or StopSignals()

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    resumption = _prepare(tuning, datamodule, folder, trainer, checkpoint, resume, say)
    profiler = _profiler(trainer, folder)
    beginning = Beginning(tuning.network, tuning.watch.injected)
    shared_out = threads(trainer.threads or (1 if tuning.is_small else None))

    def new_trainer() -> L.Trainer | HeadLoop:
        return make_trainer(
            trainer, tuning, checkpoint, loggers, folder, CheckpointFile(resumption.path, resumption.take),
            console=console, signals=signals, profiler=profiler, watcher=watcher, own=callbacks,
        )  # fmt: skip

    with (
        quiet_lightning(), known_to_be_none(), shared_out, denormals_as_zero(), _recomputing(tuning, trainer),
        explain_lost_process(folder),
    ):  # fmt: skip
        lightning = train_within_memory(
            tuning, datamodule, folder, new_trainer, signals, beginning, resumption.path, say
        )
        tuning.clock.go(None)
        lightning.strategy.barrier()  # the first process has given best.ckpt its name
        chosen = _best_epoch(tuning.history, checkpoint)
        best = _take_best(tuning, folder)
        results = _evaluate(lightning, tuning, cast(L.LightningDataModule, datamodule), datamodule)
        _check_finite({**chosen, **results["metrics"]}, checkpoint.monitor)
    tuning.network.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    return FitResult(
        **results,
        **outcome_of(tuning),
        trained={name: value for name, value in chosen.items() if name.startswith("train/")},
        best_epoch=chosen["epoch"],
        best_path=best,
        last_path=folder / FOLDER / LAST,
        resumed_from=resumption.path,
        profile=profiler.shares() if isinstance(profiler, Shares) else {},
        precision=precisions(trainer),
        prefix=ways_of(tuning),
    )


def _prepare(
    tuning: FineTuning,
    datamodule: Batches,
    folder: Path,
    trainer: TrainerConfig,
    checkpoint: CheckpointConfig,
    resume: str | Resumption,
    say: Callable[[str], None],
) -> Resumption:
    """Checks the arguments against each other, and prepares network, machine and checkpoint folder for the first
    step."""
    _check(tuning, checkpoint)
    chosen_by = f"{checkpoint.monitor} {checkpoint.direction}" if checkpoint.epoch == "best" else "the last epoch"
    tuning.shared["checkpoint.monitor and checkpoint.direction"] = chosen_by
    _check_timeline(tuning.plan.timeline, datamodule, trainer)
    tuning.adopt(tuning.plan)
    resumption = resume if isinstance(resume, Resumption) else Resumption(resume, folder, say)
    if is_first():
        prepare(resumption, folder / FOLDER, checkpoint)
    _lay_out_memory(tuning, trainer)
    if hardware(trainer)["accelerator"] == "cpu":
        keep_freed_memory()
    return resumption


def _check_timeline(timeline: Timeline, datamodule: Batches, trainer: TrainerConfig) -> None:
    """Checks that the plan belongs to this training and this data."""
    processes = trainer.devices * trainer.num_nodes
    settings = (trainer.epochs, trainer.accumulate, processes, datamodule.batch_size)
    planned = (timeline.epochs, timeline.accumulate, timeline.processes, timeline.batch_size)
    assert settings == planned, f"a plan for {planned} cannot be carried out with {settings}"
    batches = math.ceil(len(datamodule.train_dataloader()) / processes)  # of all processes, until a trainer has it
    assert batches == timeline.batches_per_epoch, f"{timeline.batches_per_epoch} planned, the data has {batches}"


def _recomputing(tuning: FineTuning, trainer: TrainerConfig) -> AbstractContextManager[None]:
    if not trainer.recompute:
        return nullcontext()
    if tuning.is_cut:
        raise InputError(
            "trainer.recompute: expected cache=none, as what lies behind kept features is another graph, received"
            " cache=features; try cache=none, or trainer.recompute=false"
        )
    return recomputed(tuning.network, tuning.plan.stages)


def make_trainer(
    config: TrainerConfig,
    tuning: FineTuning,
    checkpoint: CheckpointConfig,
    loggers: Sequence[Logger],
    folder: Path,
    file: CheckpointFile,
    *,
    console: Console,
    signals: StopSignals,
    profiler: Profiler,
    watcher: Watcher | None = None,
    own: Sequence[L.Callback] = (),
) -> L.Trainer | HeadLoop:
    """Lightning's Trainer, or graft's own loop if a head trains on cached features without callbacks of the user's."""
    plan = tuning.plan
    callbacks: list[L.Callback] = [EpochRows(folder), Checkpoints(folder, checkpoint, file, signals)]
    if config.progress:
        callbacks.insert(1, EpochLines(console))
    if config.patience is not None:
        callbacks.append(
            EarlyStop(checkpoint, config.patience, partial(console.print, highlight=False, soft_wrap=True))
        )
    if watcher is not None:
        callbacks.append(Pruning(watcher))
    if not own and trains_head_alone(tuning, config):
        return HeadLoop(config, callbacks, loggers, file, profiler)
    return L.Trainer(
        **hardware(config),
        max_epochs=plan.timeline.epochs,
        strategy=strategy(config, len(plan.states)),
        accumulate_grad_batches=plan.timeline.accumulate,
        gradient_clip_val=config.clip_norm,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        logger=list(loggers) or False,
        callbacks=[*callbacks, *own],
        plugins=[file, *_surroundings()],
        profiler=profiler,
        default_root_dir=folder,
    )


def _surroundings() -> list[SLURMEnvironment]:
    """In a SLURM job, makes Lightning leave signals to `graft.system.stopping`, and requeueing to the submitter."""
    alone = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if alone else []


def _check(tuning: FineTuning, checkpoint: CheckpointConfig) -> None:
    fault = monitor_fault(tuning.task.kind, checkpoint.monitor, checkpoint.direction, tuning.task.own)
    if fault is not None:
        raise ConfigError([fault])
    if checkpoint.every_n_steps is not None and checkpoint.every_n_steps < 1:
        raise InputError(f"checkpoint.every_n_steps: expected 1 or more, received {checkpoint.every_n_steps!r}")


def _lay_out_memory(tuning: FineTuning, trainer: TrainerConfig) -> None:
    tuning.route.channels_last = trainer.channels_last
    if trainer.channels_last:
        tuning.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if trainer.compile:
        tuning.route.compile()


def _best_epoch(history: Sequence[Mapping[str, Any]], checkpoint: CheckpointConfig) -> Mapping[str, Any]:
    best = best_row(history, checkpoint)
    if best is None:
        raise RunFailed(
            f"checkpoint.monitor: expected an epoch after which {checkpoint.monitor} is a number, received"
            f" {history[-1][checkpoint.monitor]} {'after each of' if len(history) > 1 else 'after'} {len(history)}"
            f" epoch{'s' if len(history) > 1 else ''}, so that none is the best and no model is exported; {REMEDIES}"
        )
    return best


def _check_finite(row: Mapping[str, Any], monitor: str) -> None:
    """Checks the evaluation of the exported weights, which may differ from the evaluation in the epoch that was
    chosen."""
    if not math.isfinite(row[monitor]):
        raise RunFailed(
            f"checkpoint.monitor: expected {monitor} to be a number for the best epoch's weights, received"
            f" {row[monitor]}; no model is exported; {REMEDIES}"
        )


def _take_best(tuning: FineTuning, folder: Path) -> Path:
    best = folder / FOLDER / BEST
    saved = read_checkpoint(best)
    tuning.route.leave()
    tuning.load_state_dict(saved["state_dict"], strict=True)
    tuning.methods.take(saved[STATE])
    return best


def _evaluate(
    lightning: L.Trainer | HeadLoop, tuning: FineTuning, data: L.LightningDataModule, datamodule: Batches
) -> dict[str, Any]:
    metrics: dict[str, float] = {}
    confusion: dict[str, list[list[int]]] = {}
    outputs: dict[str, Outputs] = {}
    passes = {"val": lightning.validate}
    if datamodule.test_dataloader() is not None:
        passes["test"] = lightning.test
    for part, run in passes.items():
        evaluation = tuning.evaluation(part)
        evaluation.keeps_outputs = True
        run(tuning, datamodule=data, verbose=False)
        metrics.update(tuning.row)
        outputs[part] = evaluation.outputs()
        if (counts := evaluation.confusion()) is not None:
            confusion[part] = counts
        evaluation.keeps_outputs = False
    return {"metrics": metrics, "confusion": confusion, "outputs": outputs}


def _profiler(config: TrainerConfig, folder: Path) -> Profiler:
    """The profiler: shares has no measurable cost, torch's own slows the training and writes a trace."""
    if config.profiler == "shares":
        return Shares()
    return PyTorchProfiler(
        dirpath=folder,
        filename="profile",
        schedule=torch.profiler.schedule(wait=1, warmup=1, active=TRACED, repeat=1),
        acc_events=True,
    )
