"""The frozen prefix as an inference engine beside the same layers in eval mode, in float32 and, where the device has
units for it, in bfloat16.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.case import Against, Comparison, Limit, Way, beside, timed

if TYPE_CHECKING:
    from torch import Tensor

    from graft.features.engine import Engine

REPEATS = 7
LIMITS = {"efficientnet_lite0": 1.6, "resnet18": 3.0, "resnet50": 2.5}
"""Promised in bfloat16, for training that asks for it (trainer.precision=bf16-mixed). Figures and, by default, kept
features are computed in float32.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", type=int, default=32, help="images a forward (default: %(default)s)")
    parser.add_argument("--backbones", default=",".join(LIMITS), help="some of them (default: %(default)s)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    for name in args.backbones.split(","):
        yield from _comparisons(name, args.batch_size)


def _comparisons(name: str, batch_size: int) -> Iterator[Comparison]:
    import torch

    from benchmarks.donors import network_of
    from graft.features.engine import engine, fast_precision
    from graft.models.cut import split

    network = network_of(name)
    side = network.preprocess.image_size
    images = torch.randn(
        batch_size, network.preprocess.channels, side, side, generator=torch.Generator().manual_seed(0)
    )
    prefix, _ = split(network.module.eval(), network.stages, network.stages.names[-1])

    @torch.no_grad()
    def plain() -> torch.Tensor:
        return prefix(images)

    expected = plain()
    for precision in dict.fromkeys((torch.float32, fast_precision())):
        yield _comparison(name, engine(prefix, precision=precision), images, plain, expected)


def _comparison(name: str, fast: Engine, images: Tensor, plain: Callable[[], Tensor], expected: Tensor) -> Comparison:
    difference = float((fast(images) - expected).abs().max() / expected.abs().max())
    told = {"largest relative difference": difference}
    promised = LIMITS.get(name, 1.0) if "bfloat16" in fast.description else 1.0
    return Comparison(
        what=f"{name}, the whole trunk forward, {len(images)} images at {images.shape[-1]} pixels",
        ours=Way(name=f"engine ({fast.description})", measure=beside(timed(lambda: fast(images)), told)),
        others=[
            Against(
                way=Way(name="eval mode, float32, channels-first, no_grad", measure=timed(plain)),
                limit=Limit(factor=promised, faster=True),
            )
        ],
        warm_up=1,
    )
