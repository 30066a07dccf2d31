"""Checkpoints in several pieces from distributed training, and the tools that merge them into one file."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from graft.config.faults import InputError
from graft.transfer.donors.sniff import refused

METADATA = ".metadata"
_PIECE = re.compile(r".*\.distcp|\.metadata")
_OF_DEEPSPEED = re.compile(r"(bf16_)?zero_pp_rank_\d+_mp_rank_\d+_\w+\.pt|zero_to_fp32\.py")
_EXPECTED = "weights in one file, or shards with an index"


def check_whole(path: Path) -> None:
    """Raises InputError for a file that is a piece of a checkpoint, by its name."""
    if _PIECE.fullmatch(path.name) and (path.name != METADATA or list(path.parent.glob("*.distcp"))):
        raise _distributed(path, path.parent, {entry.name for entry in path.parent.iterdir()})
    if _OF_DEEPSPEED.fullmatch(path.name):
        raise _deepspeed(path, path.parent)


def check_in_one_piece(folder: Path, names: Collection[str]) -> None:
    """Raises InputError for a folder that is, or contains, a checkpoint in pieces.

    Args:
        names: names of the files in the folder.
    """
    for place in (folder, *(folder / name for name in sorted(names) if (folder / name).is_dir())):
        inside = set(names) if place == folder else {entry.name for entry in place.iterdir()}
        if METADATA in inside and any(name.endswith(".distcp") for name in inside):
            raise _distributed(folder, place, inside)
        if any(map(_OF_DEEPSPEED.fullmatch, inside)):
            raise _deepspeed(folder, place)


def _distributed(path: Path, folder: Path, inside: Collection[str]) -> InputError:
    merged = folder.with_name(f"{folder.name}.pt")
    command = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} {merged}"
    if "meta.pt" in inside:
        command = f"python -m lightning.fabric.utilities.consolidate_checkpoint {folder} --output_file {merged}"
    return refused(
        path,
        expected=_EXPECTED,
        received="a distributed checkpoint of torch (DCP, as FSDP writes it), in pieces",
        remedy=f"`{command}`, then donor.path={merged}",
    )


def _deepspeed(path: Path, folder: Path) -> InputError:
    top = next((place for place in (folder, folder.parent) if (place / "zero_to_fp32.py").exists()), folder)
    script = top / "zero_to_fp32.py"
    return refused(
        path,
        expected=_EXPECTED,
        received="a checkpoint of DeepSpeed (ZeRO), in pieces",
        remedy=f"`python {script} {top} {top / 'merged'}`, then donor.path={top / 'merged'}",
    )
