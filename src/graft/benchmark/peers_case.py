"""Everything trains: an epoch of graft beside each peer at its own defaults."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from graft.benchmark.case import Against, Comparison, Limit, Way

REPEATS = 1
LIMIT = Limit(factor=1.6, faster=True)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="efficientnet_lite0", help="graft's option (default: %(default)s)")
    parser.add_argument("--images", type=int, default=160, help="of the solar cells, an epoch (default: %(default)s)")
    parser.add_argument("--peers", default="all", help="some of them, divided by commas (default: %(default)s)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    from graft.benchmark.peers import PEERS, chosen
    from graft.benchmark.pictures import solar_cells
    from graft.benchmark.training import epoch, make_task

    images = solar_cells(folder / "images", args.images)
    task = make_task(
        args.backbone, images, folder, freeze="none", trains=(), epochs=2, threads=args.threads, own_defaults=True
    )
    others = [
        Against(way=Way(name=PEERS[name].text, measure=epoch(name, task)), limit=LIMIT)
        for name in chosen(args.peers, task.library)
        # The optimised loop has no defaults of its own; unless it is named, `harness` is the comparison with it.
        if name != "optimised" or args.peers != "all"
    ]
    yield Comparison(
        what=f"{args.backbone}, everything trains, {args.images} images, the training pass of the second epoch",
        ours=Way(name="graft", measure=epoch(None, task)),
        others=others,
    )
