"""How an epoch's time and memory grow with the number of images, and what opening a million of them costs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.case import Against, Comparison, Limit, Measure, Measured, Way, timed
from graft.config.faults import InputError

if TYPE_CHECKING:
    from benchmarks.training import Trained

REPEATS = 1
LINE = Limit(factor=1.1)
FLAT = Limit(factor=1.1)
SECOND = Limit(factor=1.0)
ROOM = Limit(factor=1.0)
ROOM_BYTES = 200e6
KEY = "0" * 64


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sizes", default="1000,10000", help="numbers of images, the first of which the others are held against"
        " (default: %(default)s; a quarter of an hour of a core for each 100,000 with mobilenet_v3_small)",
    )  # fmt: skip
    parser.add_argument("--backbone", default="resnet18", help="graft's option (default: %(default)s)")
    parser.add_argument("--index", type=int, default=1_000_000, help="images of the index (default: %(default)s)")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    from dataclasses import replace

    from benchmarks.pictures import generated
    from benchmarks.training import by_graft, make_task

    sizes = _sizes(args.sizes)
    roots = {
        size: generated(folder / str(size), {"train": size, "val": 32}, size=(40, 40)) for size in sizes
    }  # fmt: skip
    task = make_task(args.backbone, roots[sizes[0]], folder, freeze="none", trains=(), epochs=2, threads=args.threads)
    ran: dict[int, list[Trained]] = {size: [] for size in sizes}

    def seconds(size: int) -> Measure:
        def measure() -> Measured:
            trained = by_graft(replace(task, images=str(roots[size]), image_size=32), cache="none")
            ran[size].append(trained)
            return Measured(value=trained.outcome.training[-1] / size * 1000)

        return measure

    def memory(size: int) -> Measure:
        return lambda: Measured(value=ran[size].pop(0).ran.peak)

    first, *others = sizes
    for size in others:
        yield Comparison(
            what=f"{args.backbone} at 32 pixels, an epoch's seconds for each 1,000 images",
            ours=Way(name=f"of {size:,}", measure=seconds(size)),
            others=[Against(way=Way(name=f"of {first:,}", measure=seconds(first)), limit=LINE)],
        )
        yield Comparison(
            what="the same trainings' peak memory",
            ours=Way(name=f"{size:,} images", measure=memory(size)),
            others=[Against(way=Way(name=f"{first:,} images", measure=memory(first)), limit=FLAT)],
            unit="bytes",
        )
    yield from _index(args.index, folder / "cache")


def _index(count: int, folder: Path) -> Iterator[Comparison]:
    """Opening an entry of decoded images and the table of where each lies."""
    from benchmarks.memory import peak_extra
    from graft.data.images import StoredImages
    from graft.features.cache_folder import CacheFolder

    _write_index(count, folder)

    def open_all() -> StoredImages:
        entry = CacheFolder(folder, max_gb=1.0, say=print).open(KEY)
        assert entry is not None, "written above"
        return StoredImages(entry, range(count), 3)

    def extra() -> Measured:
        return Measured(value=peak_extra(open_all) or 0)

    yield Comparison(
        what=f"the index of {count:,} images in cache=images, opened",
        ours=Way(name="graft", measure=timed(open_all)),
        others=[Against(way=Way(name="a second", measure=lambda: Measured(value=1.0)), limit=SECOND)],
    )
    yield Comparison(
        what="the same, peak extra memory",
        ours=Way(name="graft", measure=extra),
        others=[Against(way=Way(name="200 MB", measure=lambda: Measured(value=ROOM_BYTES)), limit=ROOM)],
        unit="bytes",
    )


def _write_index(count: int, folder: Path) -> None:
    """Images of one grey pixel each, laid out as `data.images.store_images` does."""
    import torch

    from graft.features.store import Writer

    folder.mkdir(parents=True)
    index_at = -(-count // 8) * 8
    rows_N4 = torch.ones(count, 4, dtype=torch.int64)
    rows_N4[:, 0] = torch.arange(count)
    table = rows_N4.view(torch.uint8).flatten()
    record = {"kind": "images", "images": count, "index_at": index_at}
    with Writer(folder, KEY, (index_at + len(table),), "uint8", record) as writer:
        writer.append(torch.zeros(index_at, dtype=torch.uint8))
        writer.append(table)
        writer.seal()


def _sizes(given: str) -> list[int]:
    try:
        sizes = [int(word) for word in given.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) < 2 or min(sizes) < 64:
        raise InputError(f"--sizes: expected two numbers of 64 or more, received {given!r}; try --sizes 1000,10000")
    return sizes
