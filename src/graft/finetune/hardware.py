"""The device, the precision and the processes of a training, and Lightning's arguments for them."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from torch.distributed.fsdp import MixedPrecision

from graft.config.faults import InputError
from graft.config.schema import TrainerConfig
from graft.features.engine import fast_precision

FSDP = "fsdp"
EXPORTED = "32-true"
"""Precision of the exported network, and so of every evaluation, whatever the training precision."""


def hardware(config: TrainerConfig) -> dict[str, Any]:
    """Lightning's arguments for devices and precision.

    Raises:
        InputError: this machine does not have them.
    """
    accelerator = _accelerator(config)
    return {
        "accelerator": accelerator,
        "devices": config.devices,
        "num_nodes": config.num_nodes,
        "precision": _precision(config, accelerator),
    }


def device_type(config: TrainerConfig) -> str:
    """cuda or cpu: the device of a run on this machine."""
    return "cuda" if config.accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def training_precision(config: TrainerConfig) -> str:
    """The value of `trainer.precision` on this machine; auto if only a GPU that this machine lacks could decide it."""
    if config.precision != "auto" or (config.accelerator == "gpu" and not torch.cuda.is_available()):
        return config.precision
    on_gpu = device_type(config) == "cuda"
    return "bf16-mixed" if on_gpu and fast_precision("cuda") is torch.bfloat16 else "32-true"


def precisions(config: TrainerConfig) -> dict[str, str]:
    """The precision of training and of evaluation in Lightning's names, for plan.json and metrics.json."""
    return {"train": training_precision(config), "evaluation": EXPORTED}


def short_trainer(config: TrainerConfig, steps: int, callback: L.Callback) -> L.Trainer:
    """A trainer for this many steps, like the run's, without evaluation, files or output."""
    return L.Trainer(
        **hardware(config),
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip_norm,
        use_distributed_sampler=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        callbacks=[callback],
    )


def strategy(config: TrainerConfig, states: int) -> Any:
    """How the processes share the work.

    Args:
        states: number of freeze states in the schedule. Parameters that train only in some state get no gradient in the
            others, and a distributed wrapper must expect that.
    """
    if config.strategy == FSDP:
        # Weights and statistics are put together in float32; in a mixed precision it is autocast that halves the
        # arithmetic, of training alone.
        whole = MixedPrecision(param_dtype=torch.float32, reduce_dtype=torch.float32, buffer_dtype=torch.float32)
        return FSDPStrategy(use_orig_params=True, state_dict_type="full", mixed_precision=whole)
    if config.devices * config.num_nodes == 1 or config.strategy not in ("auto", "ddp"):
        return config.strategy
    return DDPStrategy(find_unused_parameters=states > 1)


def _accelerator(config: TrainerConfig) -> str:
    if config.accelerator not in ("auto", "cpu", "gpu"):
        raise InputError(f"trainer.accelerator: expected auto, cpu or gpu, received {config.accelerator!r}; try auto")
    if config.strategy == FSDP and not torch.cuda.is_available():
        raise InputError(
            "trainer.strategy: expected GPUs that torch can use with fsdp, which shares weights out over them, received"
            " none; try trainer=ddp, which trains on CPUs too"
        )
    if config.accelerator == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    if config.accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError("trainer.accelerator: expected a GPU that torch can use, received none; try cpu")
    return config.accelerator


def _precision(config: TrainerConfig, accelerator: str) -> str:
    precisions = ("auto", "32-true", "bf16-mixed", "16-mixed")
    if config.precision not in precisions:
        raise InputError(
            f"trainer.precision: expected {', '.join(precisions)}, received {config.precision!r}; try auto"
        )
    if config.precision == "16-mixed" and accelerator == "cpu":
        raise InputError("trainer.precision: expected 32-true or bf16-mixed on a CPU, received '16-mixed'; try auto")
    return training_precision(config)


VARIABLE = "PYTORCH_NVML_BASED_CUDA_CHECK"


@contextmanager
def known_to_be_none() -> Generator[None]:
    """Within this context, torch remembers that this machine has no GPU. With a GPU, nothing changes.

    Optimizers ask at each step whether there is a GPU. Lightning makes torch ask the driver's library (NVML), so that
    the question does not initialise CUDA. If that library is missing, each question searches for it again, which takes
    0.7 ms per step. CUDA's own count is cached, and without a GPU it initialises nothing.
    """
    before = os.environ.get(VARIABLE)
    if torch.cuda.is_available() or before is None:
        yield
        return
    os.environ[VARIABLE] = "0"
    try:
        yield
    finally:
        os.environ[VARIABLE] = before


MESSAGES = (
    r"Found \d+ module\(s\) in eval mode at the start of training",  # frozen stages are, on purpose
    r"The '\w+' does not have many workers",  # data.num_workers chooses for the machine
    r"Consider setting `persistent_workers=True`",
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # rows are written by epoch
    r"Checkpoint directory .* exists and is not empty",
    r"No positive samples in targets",  # a small validation part may lack a class
    r"No negative samples in targets",
    r"Average precision score for one or more classes was `nan`",
    r".*Ignoring these classes in macro-average",
    r"find_unused_parameters=True was specified in DDP constructor",  # the last phase may train everything
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    r"The `srun` command is available on your system",  # a run on the login node is meant
    r"Experiment logs directory .* exists and is not empty",
)


@contextmanager
def quiet_lightning() -> Generator[None]:
    """Within this context, Lightning's banners and the messages above are not shown."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in MESSAGES:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
