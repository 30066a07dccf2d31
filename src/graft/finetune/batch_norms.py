"""Finds batch-norms that cannot train on one image, because it gives them a single value per channel and so no
variance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from graft.config.choices import FreezeBatchNorm
from graft.finetune.freeze import BATCH_NORMS, Frozen, modules_in_eval
from graft.models.memo import once_for
from graft.models.network import Network


def norm_that_needs_two(network: Network, states: Sequence[Frozen], freeze_bn: FreezeBatchNorm) -> str | None:
    """The first batch-norm that fails on a batch of one image in training mode, in any freeze state.

    Args:
        network: a network on the meta device.
        states: the freeze states that the training can reach.
    """
    module, heads = network.module, network.stages.heads
    side = network.preprocess.image_size
    shape = (network.build["channels"], side, side)
    single = once_for(network, lambda: norms_of_single_values(module, shape), "norms of single values", shape)
    in_eval = [modules_in_eval(module, state, freeze_bn, heads=heads) for state in states]
    return next((name for name in single if any(name not in quiet for quiet in in_eval)), None)


def norms_of_single_values(module: nn.Module, image_CHW: tuple[int, int, int]) -> list[str]:
    """Paths of the batch-norms that get one value per channel from one image."""
    norms: dict[str, None] = {}

    def look(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def at(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs[0].numel() == inputs[0].shape[1]:
                norms[name] = None

        return at

    modes = {part: part.training for part in module.modules()}
    hooks = [
        part.register_forward_pre_hook(look(name))
        for name, part in module.named_modules()
        if isinstance(part, BATCH_NORMS)
    ]
    try:
        with torch.no_grad():
            module.eval()(torch.empty(1, *image_CHW, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in modes.items():
            part.training = mode
    return list(norms)
