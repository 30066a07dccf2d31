"""`graft diff A B`: the difference between two sets of weights, tensor by tensor."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from graft.commands.destination import file_to_write
from graft.commands.opening import PATH, add_donor_options, open_given
from graft.page.terminal import print_table, shape_text
from graft.weights.diff_plot import cosine, number

if TYPE_CHECKING:
    from graft.weights.compare import Comparison, Difference

SUFFIXES = (".png", ".svg", ".html")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", help=f"the weights before: {PATH}")
    parser.add_argument("second", help="the weights after, likewise")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--stages", action="store_true", help="print only the stages, not every tensor")
    parser.add_argument("--plot", metavar="FILE", help="draw the changes into a .png, .svg or .html")
    add_donor_options(parser, "-a")
    add_donor_options(parser, "-b")


def run(args: argparse.Namespace) -> int:
    plot = file_to_write("--plot", args.plot, SUFFIXES) if args.plot is not None else None
    from graft.weights.compare import compare

    with open_given(args.first, args, "-a") as first, open_given(args.second, args, "-b") as second:
        comparison = compare(first, second)
    if plot is not None:
        from graft.weights.diff_plot import write_plot

        write_plot(comparison, plot)
    if args.json:
        print(json.dumps(comparison.to_dict(), ensure_ascii=False, indent=1))
        return 0
    if not args.stages:
        _print_tensors(comparison)
    _print_stages(comparison)
    print(_summary(comparison))
    return 0


def _print_tensors(comparison: Comparison) -> None:
    rows = [
        [row.stage, row.name, shape_text(row.shape), number(row.change), cosine(row.cosine), _note(row)]
        for row in comparison.tensors
    ]
    print_table(["stage", "tensor", "shape", "change", "cosine", "note"], rows, numbers=("change", "cosine"))
    print()


def _print_stages(comparison: Comparison) -> None:
    rows = [
        [
            row.stage,
            number(row.change),
            cosine(row.cosine),
            f"{row.moved} of {row.tensors}",
            f"{row.largest} ({number(row.largest_change)})" if row.moved else "",
        ]
        for row in comparison.stages
    ]
    headers = ["stage", "change", "cosine", "tensors that moved", "moved most"]
    print_table(headers, rows, numbers=("change", "cosine", "tensors that moved"))


def _note(row: Difference) -> str:
    renamed = f"{row.first_name} in the first" if row.first_name != row.name else ""
    return "; ".join(filter(None, (renamed, row.note)))


def _summary(comparison: Comparison) -> str:
    same = sum(row.change == 0 for row in comparison.tensors)
    apart = sum(row.change is None for row in comparison.tensors)
    lines = [
        *(
            (name, f"{side['source']} ({side['format']}), sha256 {side['sha256']}")
            for name, side in (("first", comparison.first), ("second", comparison.second))
        ),
        *(("remark", remark) for remark in comparison.remarks),
        ("on both", f"{len(comparison.tensors)} tensors: {same} equal, {len(comparison.tensors) - same - apart} changed"
         + (f", {apart} that cannot be compared" if apart else "")),
        *(("first only", name) for name in comparison.only_first),
        *(("second only", name) for name in comparison.only_second),
        ("figures", "change is |second - first| / |first| (L2); the stages' leave running statistics out"),
    ]  # fmt: skip
    return "\n" + "\n".join(f"{name:<12} {text}" for name, text in lines)
