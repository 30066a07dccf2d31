"""Where and in which precision a run trains, as Lightning takes it."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy

from graft.config.faults import InputError
from graft.config.schema import TrainerConfig
from graft.models.inference import fast_precision

FSDP = "fsdp"


def hardware(config: TrainerConfig) -> dict[str, Any]:
    """Lightning's arguments for devices and precision.

    Raises:
        InputError: this machine has none such.
    """
    accelerator = _accelerator(config)
    return {
        "accelerator": accelerator,
        "devices": config.devices,
        "num_nodes": config.num_nodes,
        "precision": _precision(config, accelerator),
    }


def short_trainer(config: TrainerConfig, steps: int, callback: L.Callback) -> L.Trainer:
    """Trains so many steps as the run would, and leaves nothing behind: no evaluation, no file, no word."""
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
        states: freeze states of the schedule. Parameters that only some state trains get no gradient in the others,
            and a distributed wrapper must expect that.
    """
    if config.strategy == FSDP:
        return FSDPStrategy(use_orig_params=True, state_dict_type="full")
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
    known = ("auto", "32-true", "bf16-mixed", "16-mixed")
    if config.precision not in known:
        raise InputError(f"trainer.precision: expected {', '.join(known)}, received {config.precision!r}; try auto")
    if config.precision == "16-mixed" and accelerator == "cpu":
        raise InputError("trainer.precision: expected 32-true or bf16-mixed on a CPU, received '16-mixed'; try auto")
    if config.precision != "auto":
        return config.precision
    return "bf16-mixed" if accelerator == "gpu" and fast_precision("cuda") is torch.bfloat16 else "32-true"
