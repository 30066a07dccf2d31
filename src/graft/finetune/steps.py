"""The loop over an epoch's batches, where Lightning's own is made for more than the training uses."""

from __future__ import annotations

from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loops.fetchers import _DataFetcher  # pyright: ignore[reportPrivateUsage]
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop  # pyright: ignore[reportPrivateUsage]
from lightning.pytorch.profilers import Profiler, PyTorchProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.optim import Optimizer
from typing_extensions import override

from graft.finetune.metrics import Batch
from graft.finetune.module import FineTuning

KNOWN = "2.6."  # releases of Lightning whose loop this one does the same as


def take_own_steps(trainer: L.Trainer) -> bool:
    """Has the trainer go through its batches by `Steps`, if this training is one that they can do; whether it has.

    One device, a step a batch, no gradient scaler, and not under torch's profiler, which goes by Lightning's calls.
    """
    able = (
        L.__version__.startswith(KNOWN)
        and type(trainer.strategy) is SingleDeviceStrategy
        and trainer.accumulate_grad_batches == 1
        and trainer.precision in ("32-true", "bf16-mixed")
        and not isinstance(_profiler(trainer), PyTorchProfiler)
    )
    if able:
        loop = trainer.fit_loop.epoch_loop
        trainer.fit_loop.epoch_loop = Steps(trainer, min_steps=loop.min_steps, max_steps=loop.max_steps)
    return able


def _profiler(trainer: L.Trainer) -> Profiler:
    return cast(Any, trainer).profiler


class Steps(_TrainingEpochLoop):
    """Lightning's loop, with its thirty calls a step brought down to those that a FineTuning and its callbacks heed.

    The same calls in the same order on the same numbers, and the same progress in a checkpoint. A step of a head on
    kept features is so short that looking for hooks that nobody has takes longer than its arithmetic.
    """

    @override
    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        super().on_run_start(data_fetcher)
        self._heeding = [
            callback
            for callback in cast("list[Callback]", self.trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]
            if type(callback).on_train_batch_end is not Callback.on_train_batch_end
        ]
        self._profiler = _profiler(self.trainer)
        self._on_cpu = self.trainer.strategy.root_device.type == "cpu"

    @override
    def advance(self, data_fetcher: _DataFetcher) -> None:
        if self.restarting:  # with an evaluation to make up for, perhaps
            super().advance(data_fetcher)
            return
        trainer = self.trainer
        module = cast(FineTuning, trainer.lightning_module)
        self.val_loop.restarting = False
        batch, _, _ = next(data_fetcher)
        index = self.batch_idx + 1
        progress = self.batch_progress
        progress.is_last_batch = data_fetcher.done
        if not self._on_cpu:
            with self._profiler.profile("batch_to_device"):
                batch = trainer.strategy.batch_to_device(batch)
        progress.increment_ready()
        module.on_train_batch_start(batch, index)
        progress.increment_started()
        self._step(trainer, module, batch, index)
        progress.increment_processed()
        for callback in self._heeding:
            callback.on_train_batch_end(trainer, module, None, batch, index)
        module.on_train_batch_end(None, batch, index)
        progress.increment_completed()

    @override
    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        if self.batch_progress.is_last_batch or self.trainer.should_stop:
            super().on_advance_end(data_fetcher)  # the evaluation
        else:
            self._batches_that_stepped += 1

    def _step(self, trainer: L.Trainer, module: FineTuning, batch: Batch, index: int) -> None:
        optimizer: Optimizer = trainer.optimizers[0]
        counts = self.automatic_optimization.optim_progress.optimizer
        counts.step.increment_ready()
        with self._profiler.profile("training_step"), trainer.precision_plugin.train_step_context():
            loss = module.training_step(batch, index)
        counts.zero_grad.increment_ready()
        counts.zero_grad.increment_started()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        counts.zero_grad.increment_completed()
        with self._profiler.profile("backward"):
            loss.backward()
        with self._profiler.profile("optimizer_step"):
            module.on_before_optimizer_step(optimizer)
            if trainer.gradient_clip_val:
                module.configure_gradient_clipping(
                    optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
                )
            optimizer.step()
            module.methods.after_step()
        counts.step.increment_completed()
