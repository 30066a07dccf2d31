"""Training a head on kept features: a loop over batches in memory, without Lightning's Trainer.

Such a step is so short that looking for hooks which nobody has takes longer than its arithmetic. The loop asks of the
`FineTuning` and of graft's own callbacks what the Trainer asks, in the same order, so that minibatches, rates and bits
are the same, and offers them the few things of a Trainer that they use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn, TrainerState
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from graft.config.schema import TrainerConfig
from graft.finetune.checkpoint import CheckpointFile
from graft.finetune.hardware import device_type, hardware
from graft.finetune.metrics import Batch
from graft.finetune.module import FineTuning
from graft.finetune.state import STATE, resized_position
from graft.models.stages import HEAD

PRECISIONS = ("32-true", "bf16-mixed")  # 16-mixed has a gradient scaler, which Lightning sees to


def trains_head_alone(tuning: FineTuning, config: TrainerConfig) -> bool:
    """Whether this training is one for a `HeadLoop`: in one process, of a head, always on features of the last stage.

    Not where torch's own profiler looks on, which goes by Lightning's calls.
    """
    plan = tuning.plan
    return (
        tuning.is_cut
        and tuning.kept_throughout == plan.stages.names[-1]
        and all(group.stage == HEAD for group in plan.groups)
        and plan.timeline.processes == 1
        and hardware(config)["precision"] in PRECISIONS
        and config.profiler == "shares"
    )


class HeadLoop:
    """Trains and evaluates, as `L.Trainer` does with the same callbacks; its checkpoints hold no state of Lightning's.

    Attributes as `L.Trainer` names them. Epochs and steps count from 0.
    """

    world_size = 1
    is_global_zero = True
    global_rank = 0

    def __init__(
        self,
        config: TrainerConfig,
        callbacks: Sequence[Callback],
        loggers: Sequence[Logger],
        file: CheckpointFile,
        profiler: Profiler,
    ) -> None:
        # Lightning calls callbacks that write checkpoints behind all others.
        self.callbacks = sorted(callbacks, key=lambda callback: isinstance(callback, Checkpoint))
        self.loggers, self.file, self.profiler = list(loggers), file, profiler
        self.precision = hardware(config)["precision"]
        self.gradient_clip_val = config.clip_norm
        self.strategy = SingleDeviceStrategy(torch.device("cuda:0" if device_type(config) == "cuda" else "cpu"))
        self.state = TrainerState()
        self.optimizers: list[Optimizer] = []
        self.accumulate_grad_batches = self.max_epochs = self.num_training_batches = 0
        self.current_epoch = self.global_step = self.batches = 0
        self.at_epoch_end = False
        self.should_stop = False
        """Behind the present epoch; a callback sets it."""

    @property
    def position(self) -> tuple[int, int]:
        """Epoch, and batches done in it, at which training goes on from here."""
        return (self.current_epoch + 1, 0) if self.at_epoch_end else (self.current_epoch, self.batches)

    def fit(
        self, tuning: FineTuning, datamodule: Any, ckpt_path: Path | None = None, weights_only: bool = True
    ) -> None:
        """As `L.Trainer.fit`: trains to the plan's last epoch, from the checkpoint on where one is given."""
        assert weights_only, "a checkpoint is opened without running code"
        self._take_charge(tuning, TrainerFn.FITTING)
        timeline = tuning.plan.timeline
        self.accumulate_grad_batches, self.max_epochs = timeline.accumulate, timeline.epochs
        loader, evaluated = datamodule.train_dataloader(), datamodule.val_dataloader()
        self.num_training_batches = len(loader)
        try:
            saved = self._restore(tuning, loader, ckpt_path) if ckpt_path is not None else None
            tuning.to(self.strategy.root_device)
            tuning.on_fit_start()
            self.optimizers = [tuning.configure_optimizers()]
            if saved is not None:
                self.optimizers[0].load_state_dict(saved["optimizer_states"][0])
            if self.current_epoch < self.max_epochs:
                self._call("on_train_start", tuning)
                tuning.on_train_start()
                with self.profiler.profile("run_training_epoch"):
                    while self.current_epoch < self.max_epochs and not self.should_stop:
                        self._epoch(tuning, loader, evaluated)
                self._call("on_train_end", tuning)
        except BaseException as error:
            self._call("on_exception", tuning, error)
            raise
        for logger in self.loggers:
            logger.finalize("success")
        tuning.cpu()

    def validate(self, tuning: FineTuning, datamodule: Any, verbose: bool = False) -> None:
        """As `L.Trainer.validate`; the figures are `tuning.row`."""
        self._take_charge(tuning, TrainerFn.VALIDATING)
        tuning.to(self.strategy.root_device)
        self._evaluate(tuning, datamodule.val_dataloader())
        tuning.cpu()

    def test(self, tuning: FineTuning, datamodule: Any, verbose: bool = False) -> None:
        """As `L.Trainer.test`; the figures are `tuning.row`."""
        self._take_charge(tuning, TrainerFn.TESTING)
        tuning.to(self.strategy.root_device)
        loader = datamodule.test_dataloader()
        loader.sampler.set_epoch(self.current_epoch)
        tuning.eval()
        self._call("on_test_start", tuning)
        with torch.no_grad():
            tuning.on_test_epoch_start()
            for index, batch in enumerate(self._batches(loader, "test_next")):
                tuning.test_step(batch, index)
            tuning.on_test_epoch_end()
        tuning.cpu()

    def save_checkpoint(self, path: Path | str) -> None:
        """To the disk, or to memory, as the file decides."""
        tuning = self._tuning
        checkpoint: dict[str, Any] = {
            "epoch": self.current_epoch,
            "global_step": self.global_step,
            "pytorch-lightning_version": L.__version__,  # whose names the entries have
            "state_dict": tuning.state_dict(),
            "optimizer_states": [optimizer.state_dict() for optimizer in self.optimizers],
            "lr_schedulers": [],
        }
        with self.profiler.profile("save_checkpoint"):
            tuning.on_save_checkpoint(checkpoint)
            self.file.save_checkpoint(checkpoint, path)

    def _take_charge(self, tuning: FineTuning, purpose: TrainerFn) -> None:
        self._tuning = tuning
        self.state.fn = purpose
        tuning.trainer = cast(L.Trainer, self)

    def _restore(self, tuning: FineTuning, loader: Any, path: Path) -> Mapping[str, Any]:
        saved = self.file.load_checkpoint(path)
        tuning.on_load_checkpoint(saved)
        tuning.load_state_dict(saved["state_dict"], strict=True)
        self.global_step = saved["global_step"]
        self.current_epoch, self.batches = resized_position(saved[STATE], tuning.plan.timeline)
        if self.batches:
            loader.load_state_dict({"epoch": self.current_epoch, "batch": self.batches})
        return saved

    def _epoch(self, tuning: FineTuning, loader: Any, evaluated: Any) -> None:
        loader.sampler.set_epoch(self.current_epoch)
        if not self.batches:
            tuning.on_train_epoch_start()
        if self.batches < self.num_training_batches:
            for batch in self._batches(loader, "train_dataloader_next"):
                self._batch(tuning, batch)
        for parameter in self._parameters():
            parameter.grad = None
        self._evaluate(tuning, evaluated)
        self.at_epoch_end = True
        self._call("on_train_epoch_end", tuning)
        self.current_epoch, self.batches, self.at_epoch_end = self.current_epoch + 1, 0, False

    def _batch(self, tuning: FineTuning, batch: Batch) -> None:
        index, optimizer = self.batches, self.optimizers[0]
        is_step = (index + 1) % self.accumulate_grad_batches == 0 or index + 1 == self.num_training_batches
        if index % self.accumulate_grad_batches == 0:
            for parameter in self._parameters():
                parameter.grad = None
        tuning.on_train_batch_start(batch, index)
        with self.profiler.profile("training_step"), self._autocast():
            loss = tuning.training_step(batch, index)
        with self.profiler.profile("backward"):
            (loss / self.accumulate_grad_batches).backward()
        if is_step:
            with self.profiler.profile("optimizer_step"):
                tuning.step_mean.correct(optimizer)
                tuning.on_before_optimizer_step(optimizer)
                if self.gradient_clip_val:
                    clip_grad_norm_(self._parameters(), self.gradient_clip_val)
                optimizer.step()
                tuning.methods.after_step()
            self.global_step += 1
        self.batches += 1
        self._call("on_train_batch_end", tuning, None, batch, index)
        tuning.on_train_batch_end(None, batch, index)

    def _evaluate(self, tuning: FineTuning, loader: Any) -> None:
        with self.profiler.profile("validation"), torch.no_grad():
            loader.sampler.set_epoch(self.current_epoch)  # that behind which it stands: it says which features are read
            tuning.eval()
            self._call("on_validation_start", tuning)
            tuning.on_validation_epoch_start()
            for index, batch in enumerate(self._batches(loader, "val_next")):
                tuning.validation_step(batch, index)
                self._call("on_validation_batch_end", tuning, None, batch, index, 0)
            tuning.on_validation_epoch_end()
            tuning.on_validation_model_train()

    def _batches(self, loader: Any, action: str) -> Iterator[Batch]:
        """On the device; each wait for the next one is the profiler's `action`."""
        device, batches = self.strategy.root_device, iter(loader)
        while True:
            with self.profiler.profile(action):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch if device.type == "cpu" else self.strategy.batch_to_device(batch, device)

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimizers[0].param_groups for parameter in group["params"]]

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "32-true":
            return nullcontext()
        return torch.autocast(self.strategy.root_device.type, dtype=torch.bfloat16)

    def _call(self, hook: str, tuning: FineTuning, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, tuning, *arguments)
