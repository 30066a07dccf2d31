"""`graft benchmark CASE`: graft's way beside the plain one, timed in turns in one process."""

from __future__ import annotations

import argparse
import platform
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from graft.benchmark.case import Case, MakeCase
from graft.benchmark.memory import peak_extra
from graft.benchmark.ratio import interleave, quartiles
from graft.config.faults import InputError, RunFailed
from graft.files import write_json

CASES = {"transfer": ("graft.benchmark.transfer_case", "a file of weights into a model, with its whole account")}


def configure(parser: argparse.ArgumentParser) -> None:
    listed = "; ".join(f"{name}: {text}" for name, (_, text) in CASES.items())
    parser.add_argument("case", choices=CASES, help=listed)
    parser.add_argument("--model", default="resnet50", help="a model of torchvision's (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="counted repeats of each way (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    parser.add_argument("--check", action="store_true", help="fail (exit code 1) where a limit is exceeded")


def run(args: argparse.Namespace) -> int:
    if args.repeats < 1:
        raise InputError(f"--repeats: expected 1 or more, received {args.repeats}; try --repeats 15")
    make = cast(MakeCase, import_module(CASES[args.case][0]).make)
    with TemporaryDirectory(prefix="graft-benchmark-") as folder:
        case = make(args.model, Path(folder))
        figures = measure(case, repeats=args.repeats)
    print(table(case, figures))
    if args.json is not None:
        write_json(args.json, figures)
    if args.check and (over := exceeded(figures)):
        raise RunFailed(f"expected {args.case} within its limits, received {'; '.join(over)}; try an idle machine")
    return 0


def measure(case: Case, *, repeats: int) -> dict[str, Any]:
    """Both ways' seconds, their ratio and peak memory, with what they were measured on."""
    import torch

    seconds = interleave(case.ours, case.reference, repeats=repeats)
    peaks = {name: peak_extra(way) for name, way in (("ours", case.ours), ("reference", case.reference)) if case.size}
    return {
        "what": case.what,
        "ours": {"name": case.ours_name, "seconds": seconds.ours},
        "reference": {"name": case.reference_name, "seconds": seconds.reference},
        "ratio": seconds.ratio[1],
        "ratio_quartiles": seconds.ratio[::2],
        "limit": case.limit,
        "peak_extra_bytes": peaks,
        "peak_extra_over_size": {
            name: peak / case.size for name, peak in peaks.items() if peak is not None and case.size
        },
        "memory_limit": case.memory_limit,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}",
    }


def exceeded(figures: dict[str, Any]) -> list[str]:
    """The limits that the figures are over, in words."""
    over: list[str] = []
    if figures["ratio"] > figures["limit"]:
        over.append(f"a ratio of {figures['ratio']:.2f} over {figures['limit']:g}")
    memory = figures["peak_extra_over_size"].get("ours")
    if memory is not None and memory > figures["memory_limit"]:
        over.append(f"{memory:.2f} times the size in memory over {figures['memory_limit']:g}")
    return over


def table(case: Case, figures: dict[str, Any]) -> str:
    width = max(len(case.ours_name), len(case.reference_name), len("peak extra memory / size"))
    repeats = len(figures["ours"]["seconds"])
    lines = [
        f"{case.what}; {repeats} repeats in turns, threads: {figures['threads']}, {figures['machine']}",
        f"{'':{width}}  {'median':>10}  quartiles",
    ]
    for way in ("ours", "reference"):
        low, middle, high = (value * 1e3 for value in quartiles(figures[way]["seconds"]))
        lines.append(f"{figures[way]['name']:{width}}  {middle:7.1f} ms  {low:.1f} to {high:.1f}")
    low, high = figures["ratio_quartiles"]
    lines.append(f"{'ratio':{width}}  {figures['ratio']:10.2f}  {low:.2f} to {high:.2f} (limit {case.limit:g})")
    memory = figures["peak_extra_over_size"]
    if memory:
        beside = f"{memory['reference']:.2f} for the reference (limit {case.memory_limit:g})"
        lines.append(f"{'peak extra memory / size':{width}}  {memory['ours']:10.2f}  {beside}")
    elif case.size:
        lines.append(f"peak extra memory is told on Linux only, not on {sys.platform}")
    return "\n".join(lines)
