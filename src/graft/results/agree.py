"""Whether what was written for another tool still is the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from graft.config.faults import RunFailed

if TYPE_CHECKING:
    from torch import Tensor

    from graft.results.model import OpenedModel

CLOSE = 1e-4
BATCHES = (1, 3)  # sizes at which an export must agree


def check_same(opened: OpenedModel, exported: Callable[[Tensor], Tensor], name: str) -> None:
    """Raises RunFailed unless the export gives the model's logits at every batch size."""
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
    import torch

    side, channels = opened.preprocess.settings.image_size, opened.preprocess.settings.channels
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(count))
