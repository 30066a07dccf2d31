"""A linear head solved on features that memory does not hold: read from a file, a block at a time."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.case import Against, Comparison, Limit, Measured, Way, timed

REPEATS = 1
ROOM = Limit(factor=1.0)
ROOM_BYTES = 2e9
CLASSES, SHARED = 10, 64
NOISE = 1.5
WRITTEN = 8192  # rows at a time


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=1_000_000, help="training images (default: %(default)s)")
    parser.add_argument("--width", type=int, default=1280, help="features of each (default: %(default)s)")
    parser.add_argument("--penalties", type=int, default=12, help="of the path (default: %(default)s, all)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    import resource

    import numpy as np
    import torch
    import torch.nn.functional as F

    from benchmarks.memory import peak_extra
    from graft.config.schema import LossConfig
    from graft.heads.choice import Examples, choose_head
    from graft.heads.rows import logits_of
    from graft.heads.solve import PENALTIES
    from graft.system.machine import threads
    from graft.tasks.single_label import CrossEntropy

    class Rows:
        """Features [N, D] in float16 in a file."""

        def __init__(self, path: Path, count: int) -> None:
            self.path, self.shape = path, (count, args.width)

        def __len__(self) -> int:
            return self.shape[0]

        def __getitem__(self, rows: slice) -> torch.Tensor:
            start, stop, _ = rows.indices(len(self))
            count, offset = (stop - start) * args.width, 2 * start * args.width
            values = np.fromfile(self.path, dtype=np.float16, count=count, offset=offset)
            return torch.from_numpy(values).reshape(stop - start, args.width).float()

    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(SHARED, args.width, generator=generator)
    centres = torch.randn(CLASSES, SHARED, generator=generator)

    def written(name: str, count: int) -> Examples:
        target = torch.randint(CLASSES, (count,), generator=generator)
        folder.mkdir(exist_ok=True)
        with (folder / name).open("wb") as file:
            for labels in target.split(WRITTEN):
                shared = 0.6 * centres[labels] + NOISE * torch.randn(len(labels), SHARED, generator=generator)
                noise = torch.randn(len(labels), args.width, generator=generator)
                file.write(F.relu(shared @ mixing / SHARED**0.5 + noise).half().numpy().tobytes())
        return Examples(Rows(folder / name, count), target)

    with threads(args.threads):
        train, val = written("train", args.rows), written("val", max(args.rows // 20, 100))
    spans = [len(PENALTIES) - 1] if args.penalties == 1 else torch.linspace(0, len(PENALTIES) - 1, args.penalties)
    penalties = [PENALTIES[round(float(place))] for place in spans]
    peaks: list[int] = []
    told: dict[str, float] = {}

    def solved() -> None:
        with threads(args.threads):
            choice = choose_head(train, val, CrossEntropy(LossConfig()), CLASSES, penalties=penalties)
            right = logits_of(choice.head, val.features_ND).argmax(1) == val.target
            told["val accuracy"] = float(right.double().mean())
            told["steps"] = sum(point.steps for point in choice.path)
            told["penalties"] = len(choice.path)

    def ours() -> Measured:
        seconds: list[Measured] = []
        peaks.append(peak_extra(lambda: seconds.append(timed(solved)())) or 0)
        told["GB of the process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        return seconds[0]

    def pass_over_the_file() -> None:
        for start in range(0, len(train), WRITTEN):
            train.features_ND[start : start + WRITTEN]

    yield Comparison(
        what=f"a head of {CLASSES} classes on {args.rows:,} x {args.width:,} features of a file",
        ours=Way(name=f"{len(penalties)} penalties solved", measure=ours, reached=lambda: told),
        others=[Against(way=Way(name="the file read once", measure=timed(pass_over_the_file)))],
    )
    yield Comparison(
        what="the same, peak extra memory",
        ours=Way(name="graft", measure=lambda: Measured(value=peaks[-1])),
        others=[Against(way=Way(name="2 GB", measure=lambda: Measured(value=ROOM_BYTES)), limit=ROOM)],
        unit="bytes",
    )
