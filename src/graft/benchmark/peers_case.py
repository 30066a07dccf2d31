"""Everything trains: an epoch of graft beside each peer at its own defaults."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from graft.benchmark.case import Against, Comparison, Limit, Measured, Way

if TYPE_CHECKING:
    import torch

    from graft.benchmark.stepwise import Batch, Between
    from graft.benchmark.task import Task

REPEATS = 1
STEPS = 6
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
    if "tutorial" in chosen(args.peers, task.library):
        yield _step_by_step(task, args.repeats, folder)
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


def _step_by_step(task: Task, repeats: int, folder: Path) -> Comparison:
    """Beside the tutorial's step in turns, where a machine that is busy elsewhere disturbs both alike."""
    from dataclasses import replace

    from graft.benchmark.peers.images import loader
    from graft.benchmark.peers.tutorial import Loop
    from graft.benchmark.pictures import solar_cells
    from graft.benchmark.stepwise import Recorded, in_turns
    from graft.benchmark.training import command

    images = solar_cells(folder / "steps", task.batch_size * (repeats * STEPS + 3))
    longer = replace(task, images=str(images), epochs=1)

    def by_tutorial(_: torch.nn.Module, __: Batch) -> Between:
        batches, loop = iter(loader(longer, "train")), Loop(longer, 2)
        loop.model.train()
        loop.step(*next(batches))
        return lambda: loop.step(*next(batches))

    def run() -> tuple[list[Measured], list[Measured]]:
        words = [*command(longer, folder, cache="none")[2:], "trainer.progress=false"]
        return in_turns(words, folder / "run", by_tutorial)

    recorded = Recorded(run)
    return Comparison(
        what=f"{task.backbone}, everything trains, a step of {task.batch_size} images with their decoding",
        ours=Way(name="graft", measure=recorded.ours),
        others=[
            Against(way=Way(name="the loop of PyTorch's tutorial, its defaults", measure=recorded.other), limit=LIMIT)
        ],
        turns=STEPS,
    )
