"""Everything trains, as trainer.tune=auto has it computed, in turns with float32 and channels-first, as peers do."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.case import Against, Comparison, Limit

REPEATS = 6
LIMITS = {"resnet18": 2.0, "resnet50": 2.0, "vit_b_16": 1.7, "convnext_tiny": 1.4}
"""Promised where the processor multiplies bf16 matrices in hardware."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbones", default=",".join(LIMITS), help="some of them (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="images a step (default: %(default)s)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    import torch

    from benchmarks.stepwise import WARM_UP, Stepwise, cells_for
    from benchmarks.training import RUN, make_task
    from graft.features.engine import fast_precision
    from graft.pipeline.step_search import FILE, table
    from graft.results.run_forms import read_document

    images = cells_for(args.repeats, args.batch_size, folder / "images")
    has_units = fast_precision() is torch.bfloat16
    for name in args.backbones.split(","):
        place = folder / name
        place.mkdir()
        task = make_task(
            name, images, place, freeze="none", trains=(), epochs=1, threads=args.threads,
            batch_size=args.batch_size, tune=True,
        )  # fmt: skip
        limit = Limit(factor=LIMITS[name], faster=True) if has_units and name in LIMITS else None
        with Stepwise("graft", task, place) as ours, Stepwise("tutorial", task, place) as other:
            yield Comparison(
                what=f"{name}, everything trains, a step of {args.batch_size} images with their decoding",
                ours=ours.way("graft, trainer.tune=auto"),
                others=[Against(way=other.way("the tutorial's loop: float32, channels-first"), limit=limit)],
                warm_up=WARM_UP,
            )
        print(f"\ntrainer.tune=auto tried\n{table(read_document(place / RUN / FILE))}", flush=True)
