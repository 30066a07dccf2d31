"""Peak memory of a training of the last stage, beside the tutorial's loop."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.case import Against, Comparison, Limit, Measured, Way

REPEATS = 1
LIMIT = Limit(factor=0.5)
LIBRARIES = "import torch, torchvision, timm, lightning, torchmetrics"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="resnet50", help="graft's option, of a ResNet (default: %(default)s)")
    parser.add_argument("--images", type=int, default=64, help="of the solar cells, an epoch (default: %(default)s)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    import sys
    from dataclasses import replace

    from benchmarks.peers import PEERS
    from benchmarks.pictures import solar_cells
    from benchmarks.process import run_command
    from benchmarks.training import make_task, peak

    images = solar_cells(folder / "images", args.images)
    task = make_task(
        args.backbone, images, folder, freeze="layer1-3", trains=("layer4",), epochs=1, threads=args.threads
    )
    tutorial = PEERS["tutorial"].text

    def libraries() -> Measured:
        return Measured(value=run_command([sys.executable, "-c", LIBRARIES], threads=args.threads).peak)

    yield Comparison(
        what=f"{args.backbone}, batches of {task.batch_size} at {task.image_size} pixels, the process's peak memory",
        ours=Way(name="graft, freeze=layer1-3", measure=peak(None, task)),
        others=[
            Against(
                way=Way(name=f"{tutorial}, everything trains", measure=peak("tutorial", replace(task, trains=()))),
                limit=LIMIT,
            ),
            Against(way=Way(name=f"{tutorial}, the same frozen", measure=peak("tutorial", task)), limit=LIMIT),
            Against(way=Way(name="graft's libraries, imported", measure=libraries)),
        ],
        unit="bytes",
    )
