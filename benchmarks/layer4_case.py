"""All but the last stage frozen: an epoch beside the loops', a step beside the bare cost of what trains."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.case import Against, Comparison, Limit, Way

REPEATS = 1
STEPS = 12
EPOCH = Limit(factor=2.5, faster=True)
BARE = Limit(factor=1.15)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="resnet50", help="graft's option, of a ResNet (default: %(default)s)")
    parser.add_argument("--images", type=int, default=96, help="of the solar cells, an epoch (default: %(default)s)")
    parser.add_argument("--peers", default="tutorial,optimised", help="some of them (default: %(default)s)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    from dataclasses import replace

    from benchmarks.peers import PEERS, chosen
    from benchmarks.pictures import solar_cells
    from benchmarks.stepwise import WARM_UP, Stepwise, cells_for
    from benchmarks.training import epoch, make_task

    images = solar_cells(folder / "images", args.images)
    task = make_task(
        args.backbone, images, folder, freeze="layer1-3", trains=("layer4",), epochs=2, threads=args.threads
    )
    steps = cells_for(args.repeats * STEPS, task.batch_size, folder / "steps")
    longer = replace(task, images=str(steps), epochs=1)
    with Stepwise("graft", longer, folder) as ours, Stepwise("bare", longer, folder) as bare:
        yield Comparison(
            what=f"{args.backbone}, freeze=layer1-3, a step of {task.batch_size} images",
            ours=Way(name="graft, from kept features of layer3", measure=ours.step),
            others=[
                Against(
                    way=Way(name="layer4 and head, forward and backward, on one batch in memory", measure=bare.step),
                    limit=BARE,
                )
            ],
            warm_up=WARM_UP,
            turns=STEPS,
        )
    yield Comparison(
        what=f"{args.backbone}, freeze=layer1-3, the training pass of the second epoch, {args.images} images",
        ours=Way(name="graft, from kept features of layer3", measure=epoch(None, task, cache="features")),
        others=[
            Against(way=Way(name=PEERS[name].text, measure=epoch(name, task)), limit=EPOCH)
            for name in chosen(args.peers, task.library)
        ],
    )
