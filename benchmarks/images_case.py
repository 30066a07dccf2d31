"""An epoch's images from cache=images beside decoding their JPEGs with Pillow; decoders beside each other."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.case import Against, Comparison, Limit, Way, timed

REPEATS = 5
LIMIT = Limit(factor=8, faster=True)
LARGE = (2000, 1500)
FEWER = 8  # times fewer large ones


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=256, help="JPEGs (default: %(default)s)")
    parser.add_argument("--width", type=int, default=500, help="of a JPEG, in pixels (default: %(default)s)")
    parser.add_argument("--height", type=int, default=375, help="of a JPEG, in pixels (default: %(default)s)")
    parser.add_argument("--decoders", action="store_true", help="also decoders beside each other, and on larger JPEGs")


def make(args: argparse.Namespace, folder: Path) -> Iterator[Comparison]:
    from PIL import Image
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    from benchmarks.composed import composed
    from benchmarks.decoders import check_installed, decoders
    from benchmarks.pictures import generated
    from graft.data.datamodule import DataModule
    from graft.data.datasets import load_table
    from graft.models.preprocess import preprocess_for

    if args.decoders:
        check_installed()
    size = (args.width, args.height)
    root = generated(folder / "images", {"train": args.images, "val": 4}, size=size)
    config = composed(
        "backbone=resnet18", "data=folder", f"data.root={root}", "data.num_workers=0", "cache=images",
        f"cache.dir={folder / 'cache'}",
    )  # fmt: skip
    preprocess = preprocess_for(config.backbone)
    data = DataModule(
        load_table(config.data), config.data, config.augment, preprocess, seed=0, cache=config.cache, say=lambda _: None
    )
    data.prepare_data()
    edge = round(preprocess.image_size / preprocess.crop_fraction)
    resize = transforms.Resize(edge)
    steps = transforms.Compose([
        resize, transforms.CenterCrop(preprocess.image_size), transforms.ToTensor(),
        transforms.Normalize(preprocess.mean, preprocess.std),
    ])  # fmt: skip
    pillow = ImageFolder(str(root / "train"), steps)
    batches = DataLoader(pillow, batch_size=config.data.images)
    stored = data.images("train").source
    paths = [path for path, _ in pillow.samples]

    def decode() -> None:
        for path in paths:
            with Image.open(path) as image:
                resize(image.convert("RGB"))

    what = f"{args.images} JPEGs of {args.width} by {args.height} pixels"
    yield Comparison(
        what=f"{what}, as images of {edge} pixels, before they are cut and scaled",
        ours=Way(name="cache=images", measure=timed(lambda: [stored[place].clone() for place in range(len(stored))])),
        others=[Against(way=Way(name="Pillow, decoded and resized", measure=timed(decode)), limit=LIMIT)],
        warm_up=1,
    )
    yield Comparison(
        what=f"{what}, as batches of {config.data.batch_size} at {preprocess.image_size} pixels",
        ours=Way(name="cache=images", measure=timed(lambda: list(data.loader("train")))),
        others=[
            Against(
                way=Way(name="torchvision's ImageFolder with Pillow", measure=timed(lambda: list(batches))), limit=LIMIT
            )
        ],
        warm_up=1,
    )
    if args.decoders:
        large = generated(folder / "large", {"train": max(args.images // FEWER, 1)}, size=LARGE)
        few = [str(path) for path in sorted(large.rglob("*.jpg"))]
        yield decoders(paths, what=what, edge=edge)
        yield decoders(few, what=f"{len(few)} JPEGs of {LARGE[0]} by {LARGE[1]} pixels", edge=edge)
