"""`graft COMMAND …`: the entry point. It imports no large package before the command is known."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, cast

from graft.config.faults import FORESEEN, InputError, nearest, reason_of, wants_traceback
from graft.config.program import MODULE
from graft.system.terminal import accept_every_letter, printable


class Command(Protocol):
    """The interface of each command's module."""

    def configure(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


COMMANDS = {
    "new": ("graft.commands.new", "write a small project of your own, which trains as it is"),
    "inspect": ("graft.commands.inspect", "look into a file of weights: names, shapes, what model it is of"),
    "diff": ("graft.commands.diff", "compare two sets of weights tensor by tensor"),
    "transfer": ("graft.commands.transfer", "write a donor's weights adapted to an architecture, without training"),
    "predict": ("graft.commands.predict", "classify images with a run or an exported model"),
    "embed": ("graft.commands.embed", "write the features of images as npz or Parquet, for search and clustering"),
    "export": ("graft.commands.export", "write a run's weights for torchvision, timm, ONNX, torch.export, Keras"),
    "report": ("graft.commands.report", "write the page of a run, of a sweep, or of many runs side by side"),
    "audit": ("graft.commands.audit", "look for wrong labels, copies and small classes before training"),
    "choose": (
        "graft.commands.choose",
        "try donors and ways to train on images within a budget of time, and name the best run",
    ),
    "probe": ("graft.commands.probe", "compare donors on images by solved heads and nearest neighbours"),
    "controls": ("graft.commands.controls", "repeat a run from random weights and as a linear probe"),
    "best": ("graft.commands.best", "print the command of a sweep's best trial, and write it as an experiment"),
    "jobs": ("graft.commands.jobs", "show a sweep's SLURM jobs, and record the results of those that have ended"),
    "soup": ("graft.commands.soup", "average the weights of runs, all of them or those that help"),
    "interpolate": (
        "graft.commands.interpolate",
        "interpolate between a donor's weights and a run's, and keep the best",
    ),
    "cka": ("graft.commands.cka", "compare the features of two networks' stages on given images (CKA)"),
    "cache": ("graft.commands.cache", "list or prune the features and images that runs share on disk"),
}


def usage() -> str:
    rows = "\n".join(f"  {name:11} {text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: graft COMMAND [arguments]      (graft COMMAND --help says more)\n\n"
        f"commands:\n  {'train':11} train: `graft train --help` lists groups and keys\n"
        f"  {'plan':11} show what a training command would do, and stop\n{rows}"
    )


TRAINING = {"train": (), "plan": ("mode=plan",)}
"""The commands whose arguments Hydra parses, and the overrides that each adds."""


def train(words: Sequence[str]) -> int:
    """Replaces this process by the training program, so that Hydra and Lightning can start further processes of it."""
    os.execv(sys.executable, [sys.executable, "-m", MODULE, *words])


def dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name in TRAINING:
        return train([*TRAINING[name], *rest])
    if name not in COMMANDS:
        names = [*TRAINING, *COMMANDS]
        near = nearest(name, names) or ["graft --help"]
        raise InputError(f"expected a command ({', '.join(names)}), received {name!r}; try {near[0]}")
    module, text = COMMANDS[name]
    command = cast(Command, import_module(module))
    parser = argparse.ArgumentParser(prog=f"graft {name}", description=text)
    command.configure(parser)
    args = parse(parser, rest)
    if getattr(args, "import_code", False) and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # `python -m`, and so training, has it too
    return command.run(args)


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parses options and positional arguments in any order."""
    try:
        return parser.parse_intermixed_args(arguments)
    except TypeError:  # not possible for a command with subcommands
        return parser.parse_args(arguments)


def main() -> int:
    accept_every_letter()
    return exit_code("graft", lambda: dispatch(sys.argv[1:]))


def exit_code(name: str, action: Callable[[], int]) -> int:
    """Runs the action and returns its exit code. Expected errors become a message with that name and their own code."""
    try:
        return action()
    except InputError as error:
        print(printable(f"{name}: {error}"), file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return 130
    except FORESEEN as error:
        if wants_traceback(error):
            raise
        print(printable(f"{name}: {reason_of(error)}"), file=sys.stderr)
        return 1
