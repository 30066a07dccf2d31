"""A sweep of trials over head and rates, the backbone frozen, beside one such trial alone."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.case import Against, Comparison, Limit, Measure, Measured, Way

REPEATS = 1
LIMIT, LIMIT_SOLVED = Limit(factor=2), Limit(factor=1.5)
RATES = "optimizer.lr=3e-4,1e-3,3e-3,1e-2,3e-2"
SWEPT = {
    "linear,mlp": ("head=linear,mlp", RATES, "optimizer.weight_decay=0.01,0.1"),
    "solved": (
        "head=linear,stages",
        f"loss.label_smoothing={','.join(f'{0.01 * step:g}' for step in range(25))}",
        "loss.class_weights=none,balanced",
    ),
    "linear": (RATES, "optimizer.weight_decay=0.001,0.01,0.03,0.1"),
}
TRIALS = {"linear,mlp": 20, "solved": 100, "linear": 20}
STEPS = ("head.solver=", "trainer.max_epochs=", "optimizer.lr=")  # what a solved head does not read
PRUNER = {"whole": (), "halving": ("hydra.sweeper.pruner=halving",)}
SAID = {"whole": "each to its end", "halving": "the hopeless stopped early"}
OWN = ("hydra.run.dir=", "trainer.threads=")  # of one run: its folder; and its threads, of which a head alone takes one


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="efficientnet_lite0", help="graft's option (default: %(default)s)")
    parser.add_argument("--images", type=int, help="of the solar cells' training part (default: all of them)")
    parser.add_argument("--heads", choices=SWEPT, default="linear,mlp", help="of the grid (default: %(default)s)")
    parser.add_argument("--ends", nargs="+", choices=PRUNER, default=[*PRUNER], help="how trials end (default: both)")
    parser.add_argument("--epochs", type=int, default=30, help="of each trial (default: %(default)s)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    from tempfile import TemporaryDirectory

    from benchmarks.pictures import solar_cells
    from benchmarks.process import run_command
    from benchmarks.training import command, make_task

    images = solar_cells(folder / "images", args.images)
    task = make_task(
        args.backbone, images, folder, freeze="backbone", trains=(), epochs=args.epochs, threads=args.threads
    )

    def trials(*swept: str) -> Measure:
        def measure() -> Measured:
            with TemporaryDirectory(prefix="graft-benchmark-sweep-") as temporary:
                place = Path(temporary)
                python, script, *words = command(task, place)
                words = [word for word in words if not word.startswith(OWN)]
                if args.heads == "solved":
                    words = [word for word in words if not word.startswith(STEPS)]
                if swept:
                    rest = [word for word in words if not word.startswith("optimizer.lr=")]
                    words = ["-m", *rest, *swept, f"hydra.sweep.dir={place / 'sweep'}"]
                else:
                    words.append(f"hydra.run.dir={place / 'run'}")
                ran = run_command([python, script, *words], threads=task.threads)
            return Measured(value=ran.seconds, processor=ran.processor)

        return measure

    launcher = ("hydra/launcher=workers", f"hydra.launcher.n_jobs={args.threads}") if args.threads > 1 else ()
    for end in args.ends:
        limit = LIMIT_SOLVED if args.heads == "solved" else LIMIT
        swept = (*launcher, *SWEPT[args.heads], *PRUNER[end])
        yield Comparison(
            what=f"{args.backbone} frozen, {args.heads}, {args.epochs} epochs a trial, {SAID[end]}, whole commands",
            ours=Way(name=f"{TRIALS[args.heads]} trials (-m {' '.join(swept)})", measure=trials(*swept)),
            others=[Against(way=Way(name="one trial", measure=trials()), limit=limit)],
        )
