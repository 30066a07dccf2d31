"""Opens the donors of `inspect` and `diff`, by a path and options for what the file does not record."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from graft.config.faults import InputError
from graft.config.options import Option, add_options, config_of, in_options

if TYPE_CHECKING:
    from graft.transfer import Donor

PATH = (
    "a file of PyTorch, safetensors, NumPy or Keras, an index of shards, a run's folder or another with weights in it, "
    "hf-hub:owner/name, local-dir:folder or python:module:factory"
)


def add_donor_options(parser: argparse.ArgumentParser, suffix: str = "") -> None:
    """Adds the options of a donor. The suffix distinguishes the second donor of a command (`--ema-b`)."""
    add_options(parser, _options(suffix))


def open_given(path: str, args: argparse.Namespace, suffix: str = "") -> Donor:
    """Opens the donor at a path.

    Args:
        suffix: see `add_donor_options`.

    Raises:
        InputError: there is no such donor, or it cannot be read.
    """
    from graft.transfer.donors import open_donor

    options = _options(suffix)
    kind = "keras" if getattr(args, options[-1].place) else "file"
    # The path is not checked here, because the reader's message also names similar paths.
    donor = config_of(args, options, {"donor": {"kind": kind, "path": "."}}).donor
    try:
        return open_donor(path, container=donor.container, ema=donor.ema, keras=donor.keras)
    except InputError as error:
        raise in_options(error, options) from error


def _options(suffix: str) -> tuple[Option, ...]:
    return (
        Option(f"--container{suffix}", "donor.container", "NAME"),
        Option(f"--ema{suffix}", "donor.ema"),
        Option(f"--keras{suffix}", "donor.keras", "KEY=VALUE"),
    )
