"""One task, trained by graft's command or by a peer, each in a process of its own with the same threads."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.case import Measure, Measured
from benchmarks.donors import write_donor
from benchmarks.process import Ran, run_command, train_script
from benchmarks.task import Outcome, Task

RUN = "run"  # folder of graft's run


def make_task(
    backbone: str, images: Path, folder: Path, *, freeze: str, trains: tuple[str, ...], epochs: int, threads: int,
    batch_size: int = 32, own_defaults: bool = False, tune: bool = False,
) -> Task:  # fmt: skip
    """With its donor's file written into `folder`.

    Args:
        trains: stages, or the head, as the beginnings of their parameters' names; none: everything.
    """
    donor, network = write_donor(backbone, folder)
    build, preprocess = network.build, network.preprocess
    head = network.stages.heads[0]
    return Task(
        images=str(images), donor=str(donor), library=build["library"], model=build["name"], head=head,
        backbone=backbone, freeze=freeze, trains=(*trains, head) if freeze != "none" else (),
        image_size=preprocess.image_size, mean=preprocess.mean, std=preprocess.std, epochs=epochs, threads=threads,
        batch_size=batch_size, own_defaults=own_defaults, tune=tune,
    )  # fmt: skip


def command(task: Task, folder: Path, *, cache: str = "auto") -> list[str]:
    """graft's, with a cache of its own that is empty."""
    kept = [] if cache == "none" else [f"cache.dir={folder / 'cache'}"]
    return [
        sys.executable, train_script(), f"backbone={task.backbone}", "donor=file", f"donor.path={task.donor}",
        "data=folder", f"data.root={task.images}", "data.crop_fraction=1.0", "data.num_workers=0",
        f"data.batch_size={task.batch_size}", f"freeze={task.freeze}", f"trainer.max_epochs={task.epochs}",
        "trainer.accelerator=cpu", f"trainer.threads={task.threads}", f"optimizer.lr={task.lr}", f"seed={task.seed}",
        f"data.image_size={task.image_size}", f"cache={cache}", *kept, f"hydra.run.dir={folder / RUN}",
        f"trainer.tune={'auto' if task.tune else 'off'}",
        *(["head.solver=sgd"] if task.freeze == "backbone" else []),  # the epochs that the peers train
    ]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished training, graft's or a peer's."""

    ran: Ran
    outcome: Outcome


def by_graft(task: Task, *, cache: str = "auto") -> Trained:
    """Runs the command."""
    with TemporaryDirectory(prefix="graft-benchmark-run-") as temporary:
        folder = Path(temporary)
        ran = run_command(command(task, folder, cache=cache), threads=task.threads)
        run = folder / RUN
        figures = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        with open(run / "metrics.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    training = [float(row["seconds"]) for row in rows]
    outcome = Outcome(
        training=training,
        epochs=[],
        after=(0.0, 0.0),
        images=round(float(rows[-1]["images_per_second"]) * training[-1]),
        accuracy=figures.get("test/accuracy", figures["val/accuracy"]),
    )
    return Trained(ran=ran, outcome=outcome)


def by_peer(name: str, task: Task) -> Trained:
    with TemporaryDirectory(prefix="graft-benchmark-peer-") as temporary:
        given, told = Path(temporary) / "task.json", Path(temporary) / "outcome.json"
        task.write(given)
        words = [sys.executable, "-m", "benchmarks.peers", name, str(given), str(told)]
        return Trained(ran=run_command(words, threads=task.threads), outcome=Outcome.read(told))


def to_weights(name: str | None, task: Task, *, epochs: int | None = None) -> Measure:
    """Seconds from the command to saved weights.

    Args:
        name: the peer's; None: graft.
        epochs: a peer is trained for so many only, and what is left of the task's is taken to cost as much each as the
            fastest of them.
    """

    def measure() -> Measured:
        if name is None:
            return prolonged(by_graft(task), task.epochs, task.epochs)
        shown = task.epochs if epochs is None else epochs
        return prolonged(by_peer(name, replace(task, epochs=shown)), shown, task.epochs)

    return measure


def prolonged(trained: Trained, shown: int, epochs: int) -> Measured:
    """What a training of `shown` epochs comes to with `epochs` of them, each further one as quick as its quickest.

    What follows the saved weights is not in it.
    """
    outcome, ran, left = trained.outcome, trained.ran, epochs - shown
    beside = {"accuracy": outcome.accuracy} | ({"after epochs": shown} if left else {})
    seconds, processor = (min(each) for each in zip(*outcome.epochs, strict=True)) if left else (0.0, 0.0)
    return Measured(
        value=ran.seconds - outcome.after[0] + left * seconds,
        processor=ran.processor - outcome.after[1] + left * processor,
        beside=beside,
    )


def epoch(name: str | None, task: Task, *, cache: str = "auto") -> Measure:
    """Seconds of the training pass of an epoch after the first."""

    def measure() -> Measured:
        outcome = (by_graft(task, cache=cache) if name is None else by_peer(name, task)).outcome
        seconds = median(outcome.training[1:])
        return Measured(value=seconds, beside={"images/s": outcome.images / seconds, "accuracy": outcome.accuracy})

    return measure


def peak(name: str | None, task: Task) -> Measure:
    """Bytes that the process held at its peak, its libraries included."""

    def measure() -> Measured:
        trained = by_graft(task) if name is None else by_peer(name, task)
        return Measured(value=trained.ran.peak, beside={"seconds": trained.ran.seconds})

    return measure
