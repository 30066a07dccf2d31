"""From a mistaken command to its message, beside the import of Hydra."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.case import Against, Comparison, Limit, Measure, Measured, Way

REPEATS = 9
LIMIT = Limit(factor=1.5, plus=0.5)
MISTAKE = "trainer.max_epoch=3"


def configure(parser: argparse.ArgumentParser) -> None:
    """Nothing more can be told."""


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    import sys

    from benchmarks.process import run_command, train_script

    def of(command: Sequence[str], code: int) -> Measure:
        def measure() -> Measured:
            ran = run_command(command, threads=args.threads, codes=[code])
            return Measured(value=ran.seconds, processor=ran.processor)

        return measure

    yield Comparison(
        what="a mistake of a command line, answered",
        ours=Way(name=f"python train.py {MISTAKE}", measure=of([sys.executable, train_script(), MISTAKE], 2)),
        others=[
            Against(
                way=Way(name='python -c "import hydra"', measure=of([sys.executable, "-c", "import hydra"], 0)),
                limit=LIMIT,
            )
        ],
        warm_up=1,
    )
