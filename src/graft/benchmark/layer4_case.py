"""All but the last stage frozen: an epoch beside the loops', a step beside the bare cost of what trains."""

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
EPOCH = Limit(factor=2.5, faster=True)
BARE = Limit(factor=1.15)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="resnet50", help="graft's option, of a ResNet (default: %(default)s)")
    parser.add_argument("--images", type=int, default=96, help="of the solar cells, an epoch (default: %(default)s)")
    parser.add_argument("--peers", default="tutorial,optimised", help="some of them (default: %(default)s)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    from dataclasses import replace

    from graft.benchmark.peers import PEERS, chosen
    from graft.benchmark.pictures import solar_cells
    from graft.benchmark.stepwise import Recorded, in_turns
    from graft.benchmark.training import command, epoch, make_task

    images = solar_cells(folder / "images", args.images)
    task = make_task(
        args.backbone, images, folder, freeze="layer1-3", trains=("layer4",), epochs=2, threads=args.threads
    )
    steps = solar_cells(folder / "steps", task.batch_size * (args.repeats * STEPS + 3))
    longer = replace(task, images=str(steps), epochs=1)

    def run() -> tuple[list[Measured], list[Measured]]:
        return in_turns(
            [*command(longer, folder, cache="features")[2:], "trainer.progress=false"], folder / "run", _bare
        )

    recorded = Recorded(run)
    yield Comparison(
        what=f"{args.backbone}, freeze=layer1-3, a step of {task.batch_size} images",
        ours=Way(name="graft, from kept features of layer3", measure=recorded.ours),
        others=[
            Against(
                way=Way(name="layer4 and head, forward and backward, on one batch in memory", measure=recorded.other),
                limit=BARE,
            )
        ],
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


def _bare(trained: torch.nn.Module, batch: Batch) -> Between:
    from copy import deepcopy

    import torch.nn.functional as F

    alone = deepcopy(trained).train()
    features, target = batch["features"].clone(memory_format=_preserve()), batch["target"]

    def step() -> None:
        F.cross_entropy(alone(features), target).backward()
        alone.zero_grad(set_to_none=True)

    step()
    return step


def _preserve() -> torch.memory_format:
    import torch

    return torch.preserve_format
