"""Tensors in several files, with an index of the file of each tensor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from graft.system.files import sha256
from graft.transfer.donor import Donor
from graft.transfer.donors.safetensors_file import open_safetensors
from graft.transfer.donors.sniff import DAMAGE, Format, first_line, refused, sniff
from graft.transfer.donors.torch_file import open_torch

WHAT = "an index of shards (`weight_map`: tensor name to file name)"
_MAX_INDEX = 64 * 2**20


def open_shards(index: Path) -> Donor:
    """Opens every shard in the index. Each must contain exactly the tensors that the index assigns to it."""
    where = _weight_map(index)
    shards: dict[str, Donor] = {}
    with ExitStack() as opened:
        for file in sorted(set(where.values())):
            shards[file] = opened.enter_context(_open_shard(index, file))
            _check_agreement(index, file, set(shards[file].infos), {name for name, at in where.items() if at == file})
        close = opened.pop_all().close
    kinds = sorted({shard.format for shard in shards.values()})
    mapped = kinds == ["safetensors"]
    return Donor(
        source=str(index),
        format=f"sharded {'+'.join(kinds)}",
        infos={name: shards[file].infos[name] for name, file in where.items()},
        reader=lambda name: shards[where[name]].read(name),
        resident=mapped,
        runs=[run for shard in shards.values() for run in shard.runs] if mapped else (),
        remarks=[f"{len(shards)} shards", *(f"{file}: {remark}" for file in shards for remark in shards[file].remarks)],
        closer=close,
    )


def hash_of_shards(index: Path) -> str:
    """The SHA-256 over the lines `sha256 file name` of the index and its shards: the hash of the output of
    `sha256sum`."""
    files = sorted({index.name, *_weight_map(index).values()})
    paths = [index.parent / file for file in files if sniff(index.parent / file) is not Format.folder]
    lines = "".join(f"{sha256(path)}  {path.name}\n" for path in paths)
    return hashlib.sha256(lines.encode()).hexdigest()


def _weight_map(index: Path) -> Mapping[str, str]:
    if index.stat().st_size > _MAX_INDEX:
        raise refused(index, expected=WHAT, received=f"a text file of more than {_MAX_INDEX} bytes")
    try:
        content: Any = json.loads(index.read_text(encoding="utf-8"))
    except DAMAGE as error:
        raise refused(index, expected=WHAT, received=f"JSON that cannot be read ({first_line(error)})") from error
    where = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(where, dict) or not where or not all(isinstance(file, str) for file in where.values()):
        raise refused(index, expected=WHAT, received="JSON with no weight_map", remedy="the weights file beside it")
    strays = [file for file in where.values() if not file or Path(file).name != file or file in (".", "..")]
    if strays:
        raise refused(index, expected="shards beside the index", received=f"the file name {strays[0]!r}")
    return where


def _open_shard(index: Path, file: str) -> Donor:
    path = index.parent / file
    match sniff(path):
        case Format.safetensors:
            return open_safetensors(path)
        case Format.torch:
            return open_torch(path, container=None, ema=False)
        case other:
            raise refused(path, expected="a shard in safetensors or PyTorch's format", received=other.value)


def _check_agreement(index: Path, file: str, names: set[str], promised: set[str]) -> None:
    if names == promised:
        return
    differing = sorted(names ^ promised)
    raise refused(
        index,
        expected=f"{file} to hold exactly the tensors that the index puts there",
        received=f"a difference in {len(differing)}: {', '.join(differing[:5])}",
        remedy="copy the index and all of its shards again, from the same place",
    )
