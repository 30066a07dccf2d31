"""A transfer with its whole account, beside the plain loading of the same file into the same model."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.case import Against, Comparison, Limit, Measured, Way, timed
from benchmarks.memory import peak_extra
from graft.config.faults import InputError, nearest

REPEATS = 15
TIME = Limit(factor=1.3)
MEMORY = Limit(factor=1.2)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="resnet50", help="a model of torchvision's (default: %(default)s)")


def make(args: argparse.Namespace, folder: Path) -> Sequence[Comparison]:
    """A safetensors file of a torchvision model, into another instance of it.

    Raises:
        InputError: torchvision has no such model.
    """
    from safetensors.torch import load_file, save_file
    from torchvision import models

    from graft.transfer import transfer

    model: str = args.model
    known = models.list_models(module=models)
    if model not in known:
        near = nearest(model, known) or ["resnet50"]
        raise InputError(f"--model: expected a model of torchvision's, received {model!r}; try {', '.join(near)}")
    file = folder / f"{model}.safetensors"
    options = {"init_weights": False} if model in ("googlenet", "inception_v3") else {}
    save_file(models.get_model(model, weights=None, **options).state_dict(), file)
    target = models.get_model(model, weights=None, **options)
    size = file.stat().st_size
    what = f"{model} from safetensors, {size / 1e6:.1f} MB, into a live model"

    def ours() -> object:
        return transfer(file, target)

    def plain() -> object:
        return target.load_state_dict(load_file(file), strict=True)

    names = "graft.transfer", "load_file + load_state_dict"
    times = Comparison(
        what=what,
        ours=Way(name=names[0], measure=timed(ours)),
        others=[Against(way=Way(name=names[1], measure=timed(plain)), limit=TIME)],
        warm_up=2,
    )
    if peak_extra(lambda: None) is None:
        return [times]  # memory is told on Linux only
    memory = Comparison(
        what=f"{what}, peak extra memory",
        ours=Way(name=names[0], measure=_peak(ours)),
        others=[
            Against(way=Way(name="the file's size", measure=lambda: Measured(value=size)), limit=MEMORY),
            Against(way=Way(name=names[1], measure=_peak(plain))),
        ],
        unit="bytes",
    )
    return [times, memory]


def _peak(call: Callable[[], object]) -> Callable[[], Measured]:
    def measure() -> Measured:
        peak = peak_extra(call)
        assert peak is not None, "asked before"
        return Measured(value=peak)

    return measure
