"""The backbone frozen, from the command to saved weights, beside the peers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.case import Against, Comparison, Limit, Way
from graft.config.faults import InputError

REPEATS = 1
LIMIT = Limit(factor=15, faster=True)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="efficientnet_lite0", help="graft's option (default: %(default)s)")
    parser.add_argument("--images", type=int, help="of the solar cells' training part (default: all of them)")
    parser.add_argument("--epochs", type=int, default=30, help="of the training (default: %(default)s)")
    parser.add_argument(
        "--epochs-peer", type=int, default=2,
        help="epochs that a peer is watched for; the others are taken to cost as much as the fastest of these"
        " (default: %(default)s; --epochs-peer 30 for the whole)",
    )  # fmt: skip
    parser.add_argument("--peers", default="all", help="some of them, divided by commas (default: %(default)s)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    from benchmarks.peers import PEERS, chosen
    from benchmarks.pictures import solar_cells
    from benchmarks.training import make_task, to_weights

    if not 1 <= args.epochs_peer <= args.epochs:
        raise InputError(
            f"--epochs-peer: expected 1 to {args.epochs} (--epochs), received {args.epochs_peer}; try --epochs-peer 1"
        )
    images = solar_cells(folder / "images", args.images)
    task = make_task(
        args.backbone, images, folder, freeze="backbone", trains=(), epochs=args.epochs, threads=args.threads
    )
    watched = None if args.epochs_peer == args.epochs else args.epochs_peer
    others = [
        Against(way=Way(name=PEERS[name].text, measure=to_weights(name, task, epochs=watched)), limit=LIMIT)
        for name in chosen(args.peers, task.library)
    ]
    told = f", the peers' after {watched} epochs by a straight line" if watched else ""
    yield Comparison(
        what=f"{args.backbone} frozen, {args.epochs} epochs, from the command to saved weights{told}",
        ours=Way(name="graft, its cache empty", measure=to_weights(None, task)),
        others=others,
    )
