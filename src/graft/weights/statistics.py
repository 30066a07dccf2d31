"""Batch-norm statistics of averaged weights: computed afresh, as the average of statistics is that of no network.

Where no member's statistics ever moved (a frozen trunk), there is nothing to recompute: the members agree, and so does
the average.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graft.finetune.freeze import BATCH_NORMS
from graft.system.machine import full_float32
from graft.weights.average import State


def moved_norms(module: nn.Module, states: Sequence[State]) -> tuple[str, ...]:
    """Paths of the batch-norms whose running statistics are not the same in every state."""
    paths: list[str] = []
    for path, layer in module.named_modules():
        names = [f"{path}.{name}" for name in ("running_mean", "running_var")]
        if isinstance(layer, BATCH_NORMS) and all(name in states[0] for name in names):
            first, *others = states
            if not all(torch.equal(first[name], other[name]) for name in names for other in others):
                paths.append(path)
    return tuple(paths)


@torch.no_grad()
def recompute(module: nn.Module, paths: Sequence[str], batches: Iterable[Tensor]) -> int:
    """Mutates the running statistics of these batch-norms: the mean over the batches, each as heavy as it has images,
    all else in eval mode.

    Returns how many images were seen. A batch of one image, whose variance may be none, is left out.
    """
    norms: list[Any] = [module.get_submodule(path) for path in paths]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    images_before = 0
    for images in batches:
        if len(images) > 1:
            images_before += len(images)
            for norm in norms:
                norm.momentum = len(images) / images_before
            with full_float32(images.device):
                module(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.eval()
    return images_before
