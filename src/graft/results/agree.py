"""Checks that an export for another tool computes the same as the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from graft.config.faults import RunFailed

if TYPE_CHECKING:
    from torch import Tensor

    from graft.results.model import OpenedModel

CLOSE = 1e-4
CLOSE_PICTURES = 1e-3
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


def check_same_pictures(
    models: Sequence[OpenedModel], exported: Callable[[Tensor], Tensor], pictures: Sequence[Tensor], name: str
) -> None:
    """Checks that the probabilities (of a regression, the numbers) differ by at most `CLOSE_PICTURES` of the largest.

    Args:
        models: the models whose mean answers are expected.
        exported: maps the pixels of a picture [H, W, C] to answers [K], on the CPU.
        pictures: uint8 [H, W, C] each.
        name: the format, for the message.

    Raises:
        RunFailed: they differ by more.
    """
    import torch

    from graft.system.machine import full_float32

    with torch.no_grad(), full_float32("cpu"):
        for pixels in pictures:
            image = pixels.permute(2, 0, 1)
            each = [opened.task.answers(opened.module(opened.preprocess(image)[None]))[0] for opened in models]
            expected = torch.stack(each).mean(0)
            difference = float((exported(pixels) - expected).abs().max() / expected.abs().max().clamp(min=1))
            if not difference <= CLOSE_PICTURES:
                raise RunFailed(
                    f"--format {name}: expected answers within {CLOSE_PICTURES:g} of the model's, received a difference"
                    f" of {difference:g} for a picture of {pixels.shape[1]} × {pixels.shape[0]} pixels; nothing was"
                    " written; try --logits"
                )


def example_images(opened: OpenedModel, count: int) -> Tensor:
    """Standard normal images [count, C, H, W] of the model's size. The same count gives the same images."""
    import torch

    side, channels = opened.preprocess.settings.image_size, opened.preprocess.settings.channels
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(count))
