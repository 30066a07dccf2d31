"""The backbone frozen: an epoch that reads kept features beside one that computes them again."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.case import Against, Comparison, Limit, Way

REPEATS = 3
LIMIT = Limit(factor=100, faster=True)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="efficientnet_lite0", help="graft's option (default: %(default)s)")
    parser.add_argument("--images", type=int, help="of the solar cells' training part (default: all of them)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    from dataclasses import replace

    from benchmarks.pictures import solar_cells
    from benchmarks.training import epoch, make_task

    images = solar_cells(folder / "images", args.images)
    task = make_task(args.backbone, images, folder, freeze="backbone", trains=(), epochs=10, threads=args.threads)
    yield Comparison(
        what=f"{args.backbone} frozen, the training pass of an epoch after the first",
        ours=Way(name="cache=features", measure=epoch(None, task, cache="features")),
        others=[
            Against(way=Way(name="cache=none", measure=epoch(None, replace(task, epochs=2), cache="none")), limit=LIMIT)
        ],
    )
