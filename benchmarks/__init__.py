"""`python -m benchmarks [CASE]`: graft's way beside the plain ones, measured in turns in one run."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from benchmarks.case import CaseModule
from graft.config.faults import InputError, RunFailed
from graft.system.files import write_json
from graft.system.processes import all_cores

CASES = {
    "frozen": ("benchmarks.frozen_case", "backbone frozen, from the command to saved weights, beside the peers"),
    "epoch": ("benchmarks.epoch_case", "backbone frozen, an epoch from kept features beside one without"),
    "head": ("benchmarks.head_case", "a linear head solved, beside scikit-learn and epochs of AdamW"),
    "streamed": ("benchmarks.streamed_case", "a linear head solved on features that memory does not hold"),
    "layer4": ("benchmarks.layer4_case", "freeze=layer1-3, an epoch beside the loops and beside the bare layers"),
    "harness": ("benchmarks.harness_case", "everything trains, a step beside a hand-written loop's"),
    "peers": ("benchmarks.peers_case", "everything trains, beside each peer at its own defaults"),
    "tune": ("benchmarks.tune_case", "everything trains, trainer.tune=auto, beside float32 channels-first"),
    "sweep": ("benchmarks.sweep_case", "20 trials beside one"),
    "inference": ("benchmarks.inference_case", "a frozen trunk as an engine beside its eval mode"),
    "images": ("benchmarks.images_case", "cache=images beside decoding JPEGs with Pillow"),
    "memory": ("benchmarks.memory_case", "freeze=layer1-3, peak memory beside the tutorial's loop"),
    "config": ("benchmarks.config_case", "a mistake's answer beside the import of Hydra"),
    "scale": ("benchmarks.scale_case", "time and memory by the number of images; a million in the index"),
    "transfer": ("benchmarks.transfer_case", "a file of weights into a model, with its whole account"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    cases = parser.add_subparsers(dest="case", metavar="CASE", title="cases")
    for name, (module, text) in CASES.items():
        case = cast(CaseModule, import_module(module))
        one = cases.add_parser(name, help=text, description=text)
        one.add_argument(
            "--repeats", type=int, default=case.REPEATS, help="counted turns of each way (default: %(default)s)"
        )
        one.add_argument("--threads", type=int, default=all_cores(), help="threads of each way (default: %(default)s)")
        one.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
        one.add_argument("--check", action="store_true", help="fail (exit code 1) where a promise is not kept")
        case.configure(one)


def run(args: argparse.Namespace) -> int:
    if args.case is None:
        width = max(map(len, CASES))
        print(*(f"{name:{width}}  {text}" for name, (_, text) in CASES.items()), sep="\n")
        print("\npython -m benchmarks CASE [--check] measures one; with --help it says what it can be told")
        return 0
    for option in ("repeats", "threads"):
        if getattr(args, option) < 1:
            raise InputError(f"--{option}: expected 1 or more, received {getattr(args, option)}; try --{option} 1")
    case = cast(CaseModule, import_module(CASES[args.case][0]))
    figures = _measured(case, args)
    if args.json is not None:
        write_json(args.json, figures)
    from benchmarks.measure import exceeded

    broken = [line for comparison in figures["comparisons"] for line in exceeded(comparison)]
    if args.check and broken:
        raise RunFailed(f"expected {args.case} to keep its promises, received {'; '.join(broken)}; try an idle machine")
    return 0


def _measured(case: CaseModule, args: argparse.Namespace) -> dict[str, Any]:
    """Each comparison's table is printed as soon as it is measured."""
    import torch

    from benchmarks.measure import machine, measure
    from benchmarks.table import table

    torch.set_num_threads(args.threads)
    on = machine(args.threads)
    print(", ".join(f"{name}: {value}" for name, value in on.items()), flush=True)
    found: list[dict[str, Any]] = []
    with TemporaryDirectory(prefix="graft-benchmark-") as folder:
        for comparison in case.make(args, Path(folder)):
            found.append(measure(comparison, repeats=args.repeats))
            print(f"\n{table(found[-1])}", flush=True)
    return {"case": args.case, "machine": on, "comparisons": found}
