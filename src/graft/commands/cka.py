"""`graft cka A B IMAGES…`: linear CKA between the stages of two networks, as a table, JSON or a heat map."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.commands.own_code import add_import_code

if TYPE_CHECKING:
    from torch import Tensor

    from graft.results.model import OpenedModel
    from graft.weights.activations import Images

NAME = "cka"
HELP = "compare the features of two networks' stages on given images (CKA)"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="a run's folder, or an exported model's")
    parser.add_argument("b", metavar="B", help="another one (or the same, to compare its stages with each other)")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGES", help="files, folders, globs, a CSV with a column of paths, or -"
    )
    parser.add_argument("--format", choices=("table", "json"), default="table", help="table (default) or json")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the table as a heat map")
    parser.add_argument("--column", default="path", help="the CSV's column of paths (path)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1 …")
    add_import_code(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0 if every image was used, 1 if some could not be read. Standard error lists those."""
    from graft.commands.destination import file_to_write
    from graft.inference.classify import find_device
    from graft.inference.load import open_model
    from graft.inference.sources import image_paths
    from graft.weights.activations import Capture, grams, stages_of
    from graft.weights.alignment import cka

    plot = file_to_write("--plot", args.plot, [".png"]) if args.plot is not None else None
    device = find_device(args.device)
    models = [open_model(path, import_code=args.import_code) for path in (args.a, args.b)]
    paths = list(image_paths(args.images, column=args.column, stdin=sys.stdin))
    readable = [path for path in paths if all(_is_readable(model, path) for model in _distinct(models))]
    products: list[dict[str, Tensor]] = []
    for model in models:
        capture = Capture(model.module, stages_of(model), device)
        products.append(grams(capture, _reader(model, readable), len(readable)))
    rows, columns = list(products[0]), list(products[1])
    table = [[cka(products[0][row], products[1][column]) for column in columns] for row in rows]
    record: dict[str, Any] = {
        "a": args.a,
        "b": args.b,
        "images": len(readable),
        "stages_a": rows,
        "stages_b": columns,
        "cka": [[None if math.isnan(value) else value for value in line] for line in table],
    }
    print(json.dumps(record, ensure_ascii=False) if args.format == "json" else as_text(rows, columns, table))
    if args.format == "table":
        print(f"\nrows: {args.a}\ncolumns: {args.b}\n{len(readable)} images")
    if plot is not None:
        draw(rows, columns, table, (args.a, args.b), plot)
    if len(readable) < len(paths):
        print(f"graft cka: {len(paths) - len(readable)} of {len(paths)} images could not be read", file=sys.stderr)
    return 1 if len(readable) < len(paths) else 0


def as_text(rows: Sequence[str], columns: Sequence[str], table: Sequence[Sequence[float]]) -> str:
    wide = max(map(len, rows))
    width = max(6, *map(len, columns))
    lines = [" " * wide + "".join(f"  {column:>{width}}" for column in columns)]
    for row, values in zip(rows, table, strict=True):
        lines.append(f"{row:<{wide}}" + "".join(f"  {value:>{width}.4f}" for value in values))
    return "\n".join(lines)


def draw(
    rows: Sequence[str],
    columns: Sequence[str],
    table: Sequence[Sequence[float]],
    names: tuple[str, str],
    path: Path,
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from graft.page.words import plot_text
    from graft.system.files import atomic_path

    figure = Figure(figsize=(2.2 + 0.6 * len(columns), 1.8 + 0.5 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    picture = axes.imshow(table, vmin=0, vmax=1, cmap="viridis")
    axes.set_xticks(range(len(columns)), [plot_text(name) for name in columns], rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), [plot_text(name) for name in rows])
    axes.set_ylabel(names[0])
    axes.set_xlabel(names[1])
    for y, line in enumerate(table):
        for x, value in enumerate(line):
            shade = "black" if value > 0.6 else "white"
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7, color=shade)
    figure.colorbar(picture, label="linear CKA")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _distinct(models: Sequence[OpenedModel]) -> list[OpenedModel]:
    """The models whose preprocessing differs."""
    return list({repr(model.preprocess): model for model in models}.values())


def _is_readable(model: OpenedModel, path: str) -> bool:
    from graft.config.faults import InputError

    try:
        model.preprocess(path)
    except InputError as error:
        print(f"graft cka: left out: {error}", file=sys.stderr)
        return False
    return True


def _reader(model: OpenedModel, paths: Sequence[str]) -> Images:
    import torch

    def read(places: Sequence[int]) -> Tensor:
        return torch.stack([model.preprocess(paths[place]) for place in places])

    return read
