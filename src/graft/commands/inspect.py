"""`graft inspect FILE`: lists the tensors of a file, and recognizes the network that they are likely of."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING

from graft.commands.opening import PATH, add_donor_options, open_given
from graft.page.terminal import print_table, shape_text

if TYPE_CHECKING:
    from graft.models.architectures import Likeness
    from graft.weights.contents import Contents

SHOWN = 8


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help=PATH)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_donor_options(parser)


def run(args: argparse.Namespace) -> int:
    from graft.weights.contents import contents

    began = time.perf_counter()
    with open_given(args.file, args) as donor:
        summary = contents(donor)
    if args.json:
        print(json.dumps(summary.to_dict(), ensure_ascii=False, indent=1))
        return 0
    _print_tensors(summary)
    print(_summary(summary))
    print(f"looked at in  {time.perf_counter() - began:.1f} s")
    return 0


def _print_tensors(summary: Contents) -> None:
    finite = not (summary.nan or summary.inf)
    headers = ["tensor", "shape", "dtype", "bytes", *([] if finite else ["NaN", "Inf"])]
    rows = [
        [
            tensor.name,
            shape_text(tensor.shape),
            tensor.dtype,
            f"{tensor.bytes:,}",
            *([] if finite else [f"{tensor.nan or ''}", f"{tensor.inf or ''}"]),
        ]
        for tensor in summary.tensors
    ]
    print_table(headers, rows, numbers=("bytes", "NaN", "Inf"))


def _summary(summary: Contents) -> str:
    dtypes = ", ".join(f"{count} {name}" for name, count in summary.dtypes.items())
    bad = f"{summary.nan:,} NaN, {summary.inf:,} infinite" if summary.nan or summary.inf else "all"
    lines = [
        ("donor", f"{summary.source} ({summary.format})"),
        ("container", summary.container or "none: the tensors are the file's own level"),
        ("prefix", f'"{summary.prefix}" in front of every name' if summary.prefix else "none"),
        ("tensors", f"{len(summary.tensors):,} ({dtypes}), {summary.values:,} values, {summary.bytes:,} bytes"),
        ("finite", bad),
        ("sha256", summary.sha256 or "none: not a file"),
        *(("remark", remark) for remark in summary.remarks),
        *(("likely", line) for line in _likely(summary.architectures)),
    ]
    return "\n" + "\n".join(f"{name:<13} {text}" for name, text in lines)


def _likely(candidates: tuple[Likeness, ...]) -> list[str]:
    if not candidates:
        return ["no model of torchvision or timm has half of these names and shapes"]
    lines = [f"{each.library} {each.name}: {_why(each)}" for each in candidates[:SHOWN]]
    further = [each.name for each in candidates[SHOWN:]]
    return [*lines, *([f"and {len(further)} more ({', '.join(further[:3])}, …)"] if further else [])]


def _why(each: Likeness) -> str:
    own = f", its last layer for {each.classes:,} classes" if each.classes is not None else ", without a last layer"
    match each.kind:
        case "equal":
            return f"every name and shape of its trunk ({each.of} tensors){own}"
        case "shapes":
            return f"every shape of its trunk ({each.of} tensors) under other names{own}"
        case _:
            return f"{each.matched} of {each.of} tensors by name and shape"
