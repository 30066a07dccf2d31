"""Reduces the memory of a step: smaller batches with more accumulation, starting from the last checkpoint."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from graft.config.faults import RunFailed
from graft.finetune.training_plan import TrainingPlan

COUNTS = ("ready", "started", "processed", "completed")


def shrink(
    batch_size: int, accumulate: int, *, can_train_by: Callable[[int], bool] = lambda size: True
) -> tuple[int, int]:
    """The next smaller batch size that divides the images of a step evenly, and the number of batches per step.

    Args:
        can_train_by: whether training is possible with a given batch size.

    Raises:
        RunFailed: there is no smaller batch size.
    """
    for divisor in range(2, batch_size + 1):
        if batch_size % divisor == 0 and can_train_by(batch_size // divisor):
            return batch_size // divisor, accumulate * divisor
    of = "a single image a batch" if batch_size == 1 else f"{batch_size} images a batch, and no smaller one can train"
    raise RunFailed(
        f"out of memory with {of}; checkpoints written before are intact; try a smaller data.image_size, a smaller"
        " backbone, or trainer.recompute=true"
    )


class Batched(Protocol):
    """Data whose batch size can be set; it applies to loaders created afterwards."""

    batch_size: int

    def can_train_by(self, batch_size: int) -> bool: ...


def with_smaller_batches(plan: TrainingPlan, data: Batched, reason: str, say: Callable[[str], None]) -> TrainingPlan:
    """The plan with the same steps but less memory. Sets the data's batch size.

    Raises:
        RunFailed: there are several processes, which cannot all know that one is out of memory; or no smaller batch.
    """
    timeline = plan.timeline
    before = timeline.batch_size
    smaller, accumulate = shrink(before, timeline.accumulate, can_train_by=data.can_train_by)
    remedy = f"data.batch_size={smaller} trainer.accumulate={accumulate}"
    if timeline.processes > 1:
        raise RunFailed(f"out of memory ({reason}); try {remedy} in the same folder, which goes on with the same steps")
    data.batch_size = smaller
    say(f"out of memory with batches of {before} ({reason}): going on as with {remedy}, from the last checkpoint")
    return plan.derived(batches=(smaller, accumulate))


class Beginning:
    """Copies on the CPU of the tensors that training will change."""

    def __init__(self, network: nn.Module, unchanging: Mapping[str, str]) -> None:
        self.network = network
        self.values = {name: value.cpu().clone() for name, value in _tensors(network).items() if name not in unchanging}

    def restore(self) -> None:
        """Mutates the network: restores the copied values."""
        now = _tensors(self.network)
        for name, value in self.values.items():
            now[name].copy_(value)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in network.state_dict().items()}


def resized(count: int, *, batches: tuple[int, int], accumulate: tuple[int, int]) -> int:
    """Converts a number of batches within an epoch to batches of another size.

    Args:
        batches: batches per epoch, before and now.
        accumulate: batches per step, before and now.
    """
    (before, now), (each, wanted) = batches, accumulate
    # Steps are saved whole, so a count is a multiple of a step's batches, or the whole epoch.
    return now if count == before else min(count // each * wanted, now)


def resize_progress(checkpoint: dict[str, Any], *, batches: tuple[int, int], accumulate: tuple[int, int]) -> None:
    """Converts a checkpoint's batch counts to an epoch with the same steps but other batches.

    Args:
        batches: batches per epoch, when it was saved and now.
        accumulate: batches per step, when it was saved and now.
    """
    before, now = batches

    def within(count: int) -> int:
        return resized(count, batches=batches, accumulate=accumulate)

    def counted(count: int) -> int:
        epochs, rest = divmod(count, before)
        return epochs * now + within(rest)

    loops = checkpoint["loops"]["fit_loop"]
    progress = loops["epoch_loop.batch_progress"]
    for part, convert in (("total", counted), ("current", within)):
        counts = progress[part]
        ready = convert(counts["ready"])
        progress[part] = {**counts, **{name: ready - (counts["ready"] - counts[name]) for name in COUNTS}}
    loaders = loops["state_dict"].get("combined_loader", [])
    loops["state_dict"]["combined_loader"] = [{**state, "batch": within(state["batch"])} for state in loaders]


def free_memory() -> None:
    """Releases the memory of a failed step; called when its exception is gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
