"""The frozen prefix as an inference engine beside the same layers in eval mode."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from graft.benchmark.case import Against, Comparison, Limit, Way, beside, timed

REPEATS = 7
LIMITS = {"efficientnet_lite0": 1.6, "resnet18": 3.0, "resnet50": 2.5}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", type=int, default=32, help="images a forward (default: %(default)s)")
    parser.add_argument("--backbones", default=",".join(LIMITS), help="some of them (default: %(default)s)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    for name in args.backbones.split(","):
        yield _comparison(name, args.batch_size)


def _comparison(name: str, batch_size: int) -> Comparison:
    import torch

    from graft.benchmark.donors import network_of
    from graft.models.cut import split
    from graft.models.inference import engine

    network = network_of(name)
    side = network.preprocess.image_size
    images = torch.randn(
        batch_size, network.preprocess.channels, side, side, generator=torch.Generator().manual_seed(0)
    )
    prefix, _ = split(network.module.eval(), network.stages, network.stages.names[-1])
    fast = engine(prefix)

    @torch.no_grad()
    def plain() -> torch.Tensor:
        return prefix(images)

    expected = plain()
    told = {"largest relative difference": float((fast(images) - expected).abs().max() / expected.abs().max())}
    return Comparison(
        what=f"{name}, the whole trunk forward, {batch_size} images at {side} pixels",
        ours=Way(name=f"engine ({fast.description})", measure=beside(timed(lambda: fast(images)), told)),
        others=[
            Against(
                way=Way(name="eval mode, float32, channels-first, no_grad", measure=timed(plain)),
                limit=Limit(factor=LIMITS.get(name, 1.0), faster=True),
            )
        ],
        warm_up=1,
    )
