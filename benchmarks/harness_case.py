"""Everything trains: a step of graft's in turns with one of a hand-written loop with the same settings."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.case import Against, Comparison, Limit

REPEATS = 12
LIMIT = Limit(factor=0.97, faster=True)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="efficientnet_lite0", help="graft's option (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="images a step (default: %(default)s)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    from benchmarks.peers import PEERS
    from benchmarks.stepwise import WARM_UP, Stepwise, cells_for
    from benchmarks.training import make_task

    images = cells_for(args.repeats, args.batch_size, folder / "images")
    task = make_task(
        args.backbone, images, folder, freeze="none", trains=(), epochs=1, threads=args.threads,
        batch_size=args.batch_size,
    )  # fmt: skip
    with Stepwise("graft", task, folder) as ours, Stepwise("optimised", task, folder) as other:
        yield Comparison(
            what=f"{args.backbone}, everything trains, a step of {args.batch_size} images with their decoding",
            ours=ours.way("graft"),
            others=[Against(way=other.way(PEERS["optimised"].text), limit=LIMIT)],
            warm_up=WARM_UP,
        )
