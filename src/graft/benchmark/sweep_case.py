"""A sweep of trials over head and rates, the backbone frozen, beside one such trial alone."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from graft.benchmark.case import Against, Comparison, Limit, Measure, Measured, Way

REPEATS = 1
LIMIT = Limit(factor=2)
SWEPT = ("head=linear,mlp", "optimizer.lr=3e-4,1e-3,3e-3,1e-2,3e-2", "optimizer.weight_decay=0.01,0.1")
TRIALS = 20
PRUNED = "hydra.sweeper.pruner=halving"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="efficientnet_lite0", help="graft's option (default: %(default)s)")
    parser.add_argument("--images", type=int, help="of the solar cells' training part (default: all of them)")
    parser.add_argument("--epochs", type=int, default=30, help="of each trial (default: %(default)s)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    from tempfile import TemporaryDirectory

    from graft.benchmark.pictures import solar_cells
    from graft.benchmark.process import run_command
    from graft.benchmark.training import command, make_task

    images = solar_cells(folder / "images", args.images)
    task = make_task(
        args.backbone, images, folder, freeze="backbone", trains=(), epochs=args.epochs, threads=args.threads
    )

    def trials(*swept: str) -> Measure:
        def measure() -> Measured:
            with TemporaryDirectory(prefix="graft-benchmark-sweep-") as temporary:
                place = Path(temporary)
                python, script, *words = command(task, place)
                if swept:
                    rest = [word for word in words if not word.startswith(("optimizer.lr=", "hydra.run.dir="))]
                    words = ["-m", *rest, *swept, f"hydra.sweep.dir={place / 'sweep'}"]
                ran = run_command([python, script, *words], threads=task.threads)
            return Measured(value=ran.seconds, processor=ran.processor)

        return measure

    for how, swept in (("each to its end", SWEPT), ("the hopeless stopped early", (*SWEPT, PRUNED))):
        yield Comparison(
            what=f"{args.backbone} frozen, trials of {args.epochs} epochs, {how}, the cache empty, whole commands",
            ours=Way(name=f"{TRIALS} trials (-m {' '.join(swept)})", measure=trials(*swept)),
            others=[Against(way=Way(name="one trial", measure=trials()), limit=LIMIT)],
        )
