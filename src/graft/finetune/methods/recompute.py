"""Activation checkpointing: trained blocks store only their inputs and are computed again in the backward pass.

Chen et al. 2016. It mutates the forward of the modules, and restores it afterwards.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from graft.finetune.freeze import BATCH_NORMS
from graft.models.stages import Stages

SEQUENCES = (nn.Sequential, nn.ModuleList)


class Recomputed:
    """Replaces one module's forward during training; stored in the instance's `__dict__`, like StaysInEval."""

    __slots__ = ("module",)

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = type(self.module).forward
        trains = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.module.parameters())
        if not trains:
            return forward(self.module, *args, **kwargs)
        return checkpoint(forward, self.module, *args, use_reentrant=False, context_fn=self._contexts, **kwargs)

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """The contexts of the forward pass, and of its repetition, which must not update batch-norm statistics a second
        time."""
        return nullcontext(), _statistics_held(self.module)


@contextmanager
def recomputed(network: nn.Module, stages: Stages) -> Generator[None]:
    """Within this context, the blocks of every trained stage are computed twice instead of stored. Mutates their
    forward."""
    blocks = list(_blocks(network, stages))
    for block in blocks:
        block.__dict__["forward"] = Recomputed(block)
    try:
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


def _blocks(network: nn.Module, stages: Stages) -> Iterator[nn.Module]:
    """The stages' modules; the items of a Sequential individually."""
    modules = dict(network.named_modules())
    for stage in stages.trunk:
        for prefix in stage.prefixes:
            if prefix not in modules:
                continue  # a parameter of the network's own
            module = modules[prefix]
            yield from (child for child in module.children()) if isinstance(module, SEQUENCES) else (module,)


@contextmanager
def _statistics_held(module: nn.Module) -> Generator[None]:
    """Keeps the statistics unchanged by momentum 0. Without statistics, the repetition would store other tensors."""
    norms = [part for part in module.modules() if isinstance(part, BATCH_NORMS) and part.training]
    before = [(norm.momentum, None if (count := norm.num_batches_tracked) is None else count.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)
