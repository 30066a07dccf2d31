"""Checks that an export for another tool computes the same as the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from graft.config.faults import RunFailed

if TYPE_CHECKING:
    from torch import Tensor

    from graft.results.model import OpenedModel

CLOSE = 1e-4
BATCHES = (1, 3)  # the batch sizes that are compared


def check_same(opened: OpenedModel, exported: Callable[[Tensor], Tensor], name: str) -> None:
    """Checks that the logits differ by at most `CLOSE`, for random images.

    Args:
        exported: maps images [B, C, H, W] to logits [B, K], on the CPU.
        name: the format, for the message.

    Raises:
        RunFailed: they differ by more.
    """
    import torch

    from graft.system.machine import full_float32

    with torch.no_grad(), full_float32("cpu"):
        for size in BATCHES:
            images = example_images(opened, size)
            difference = float((exported(images) - opened.module(images)).abs().max())
            if not difference <= CLOSE:
                raise RunFailed(
                    f"--format {name}: expected logits within {CLOSE:g} of the model's, received a difference of "
                    f"{difference:g} for {size} images; nothing was written"
                )


def example_images(opened: OpenedModel, count: int) -> Tensor:
    """Standard normal images [count, C, H, W] of the model's size. The same count gives the same images."""
    import torch

    side, channels = opened.preprocess.settings.image_size, opened.preprocess.settings.channels
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(count))
