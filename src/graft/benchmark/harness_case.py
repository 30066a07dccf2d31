"""Everything trains: a step of graft's beside a step of a hand-written loop with the same settings."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from graft.benchmark.case import Against, Comparison, Limit, Measured, Way

if TYPE_CHECKING:
    import torch

    from graft.benchmark.stepwise import Batch, Between

REPEATS = 1
STEPS = 12
LIMIT = Limit(factor=0.97, faster=True)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="efficientnet_lite0", help="graft's option (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="images a step (default: %(default)s)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    from graft.benchmark.peers.images import loader
    from graft.benchmark.peers.network import network_of
    from graft.benchmark.peers.optimised import Loop
    from graft.benchmark.pictures import solar_cells
    from graft.benchmark.stepwise import Recorded, in_turns
    from graft.benchmark.training import command, make_task

    steps = args.repeats * STEPS
    images = solar_cells(folder / "images", args.batch_size * (steps + 3))
    task = make_task(
        args.backbone, images, folder, freeze="none", trains=(), epochs=1, threads=args.threads,
        batch_size=args.batch_size,
    )  # fmt: skip

    def by_hand(_: torch.nn.Module, __: Batch) -> Between:
        batches = iter(loader(task, "train"))
        loop = Loop(network_of(task, 2), lr=task.lr)
        loop.step(*next(batches))
        return lambda: loop.step(*next(batches))

    def run() -> tuple[list[Measured], list[Measured]]:
        return in_turns([*command(task, folder, cache="none")[2:], "trainer.progress=false"], folder / "run", by_hand)

    recorded = Recorded(run)
    yield Comparison(
        what=f"{args.backbone}, everything trains, a step of {args.batch_size} images with their decoding",
        ours=Way(name="graft", measure=recorded.ours),
        others=[Against(way=Way(name="a hand-written loop that wastes little", measure=recorded.other), limit=LIMIT)],
        turns=STEPS,
    )
