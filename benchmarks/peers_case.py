"""Everything trains: a step of graft's in turns with one of each peer's, which has its own defaults."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.case import Against, Comparison, Limit

REPEATS = 6
LIMIT = Limit(factor=1.6, faster=True)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="efficientnet_lite0", help="graft's option (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="images a step (default: %(default)s)")
    parser.add_argument("--peers", default="all", help="some of them, divided by commas (default: %(default)s)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    """One after the other: each peer's steps have graft's for neighbours."""
    from benchmarks.peers import PEERS, chosen
    from benchmarks.stepwise import WARM_UP, Stepwise, cells_for
    from benchmarks.training import make_task

    images = cells_for(args.repeats, args.batch_size, folder / "images")
    task = make_task(
        args.backbone, images, folder, freeze="none", trains=(), epochs=1, threads=args.threads,
        batch_size=args.batch_size, own_defaults=True,
    )  # fmt: skip
    for name in chosen(args.peers, task.library):
        if name == "optimised" and args.peers == "all":
            continue  # it has no defaults of its own: `harness` is the comparison with it
        with Stepwise("graft", task, folder) as ours, Stepwise(name, task, folder) as other:
            yield Comparison(
                what=f"{args.backbone}, everything trains, a step of {task.batch_size} images with their decoding",
                ours=ours.way("graft"),
                others=[Against(way=other.way(f"{PEERS[name].text}, its defaults"), limit=LIMIT)],
                warm_up=WARM_UP,
            )
