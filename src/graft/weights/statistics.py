"""Recomputes the batch-norm statistics of averaged weights, because averaged statistics match no network.

Statistics that are equal in all members (a frozen trunk) are right for the average too, and are not recomputed.
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
    """Paths of the batch-norms whose running statistics differ between the states."""
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
    """Replaces the running statistics of these batch-norms by their mean over the batches, weighted by batch size.

    All other layers run in eval mode. Batches of one image are skipped, because they may have no variance.

    Args:
        paths: module paths of the batch-norms.
        batches: images [B, C, H, W] on the module's device.

    Returns:
        The number of images used.
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
