"""Finds the part of a checkpoint that holds the tensors: by its contents, or by an option if there are several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from graft.config.faults import nearest
from graft.transfer.donors.pickled import Opaque, kind_of
from graft.transfer.donors.sniff import refused

TOP = "."
"""Name of the checkpoint's own level in donor.container."""
_DEPTH = 3
_LONGEST, _MOST = 200, 1000
"""Limits on the length of a container's name and on the number of containers: a few bytes of a hostile file can stand
for millions."""
_STATE_DICT = "save model.state_dict() instead of the whole module"
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The tensors of one container, and what was recognised on the way."""

    tensors: dict[str, Tensor]
    container: str
    remarks: list[str]


def choose(path: Path, checkpoint: object, *, container: str | None, ema: bool) -> Contents:
    """The state dict inside a checkpoint.

    Args:
        checkpoint: contents of the file: a mapping of tensors, or mappings of such.
        container: dotted path of the container (`state_dict`, `model.encoder`, `.` for the checkpoint's own level).
        ema: use the averaged weights.

    Raises:
        InputError: nothing holds tensors, the container does not exist, or several are possible.
    """
    if isinstance(checkpoint, Opaque) and not checkpoint:
        raise refused(
            path,
            expected="a mapping of names to tensors",
            received=f"an object of {kind_of(checkpoint)}, of which nothing was rebuilt and nothing executed",
            remedy=_STATE_DICT,
        )
    if not isinstance(checkpoint, Mapping):
        raise refused(
            path,
            expected="a mapping of names to tensors",
            received=f"a single {kind_of(checkpoint)}",
            remedy="torch.save(model.state_dict(), …)",
        )
    candidates = _holding_tensors(checkpoint)
    if not candidates:
        contents = [f"{str(key)[:40]} ({kind_of(value)})" for key, value in list(checkpoint.items())[:_SHOWN]]
        whole = any(isinstance(value, Opaque) for value in checkpoint.values())
        raise refused(
            path,
            expected="a mapping of names to tensors, or one that contains such a mapping (state_dict, model, …)",
            received=f"a checkpoint with no tensors under names (it holds {', '.join(contents) or 'nothing'})",
            remedy=_STATE_DICT if whole else "torch.save(model.state_dict(), …)",
        )
    name = _pick(path, candidates, container=container, ema=ema)
    return _contents(path, checkpoint, candidates, name)


def mappings(checkpoint: object) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Every dictionary that can be reached by names from the checkpoint's own level, with these names.

    A dictionary with several names is returned for each of them, but its contents only once.
    """
    entered: set[int] = set()
    waiting: list[tuple[tuple[str, ...], object]] = [((), checkpoint)]
    while waiting:
        names, value = waiting.pop()
        if not isinstance(value, dict):
            continue
        yield names, value
        if len(names) < _DEPTH and id(value) not in entered:
            entered.add(id(value))
            inner = [(key, below) for key, below in value.items() if isinstance(key, str) and isinstance(below, dict)]
            waiting += [((*names, key), below) for key, below in reversed(inner) if len(key) <= _LONGEST]


def _holding_tensors(checkpoint: object) -> dict[str, Mapping[str, Any]]:
    """Every mapping that directly contains tensors and has only string keys."""
    holds: dict[int, bool] = {}
    candidates: dict[str, Mapping[str, Any]] = {}
    for names, value in mappings(checkpoint):
        if id(value) not in holds:
            named = all(isinstance(key, str) for key in value)
            holds[id(value)] = named and any(isinstance(inner, Tensor) for inner in value.values())
        if holds[id(value)] and len(candidates) < _MOST:
            candidates[".".join(names) or TOP] = value
    return candidates


def _pick(path: Path, candidates: Mapping[str, Any], *, container: str | None, ema: bool) -> str:
    listed = _few([f"{name} ({_count(candidates[name])} tensors)" for name in list(candidates)[: _SHOWN + 1]])
    if container is not None:
        if container not in candidates:
            close = nearest(container, candidates) or list(candidates)
            raise refused(
                path,
                expected="donor.container to name a mapping of tensors",
                received=f"{container!r}, while the file has {listed}",
                remedy=f"donor.container={close[0]}",
            )
        if ema and not _is_average(container):
            raise refused(
                path,
                expected="donor.container and donor.ema to agree",
                received=f"donor.ema=true with donor.container={container}",
                remedy="leave one of the two out",
            )
        return container
    averaged = [name for name in candidates if _is_average(name)]
    if ema and not averaged:
        raise refused(
            path,
            expected="averaged weights (state_dict_ema, model_ema, …) for donor.ema=true",
            received=f"a file with {listed}",
            remedy="donor.ema=false, or donor.container=NAME",
        )
    choices = averaged if ema else [name for name in candidates if not _is_average(name)] or averaged
    if len(choices) > 1:
        raise refused(
            path,
            expected="one mapping of tensors, or donor.container to say which",
            received=f"a file with {listed}",
            remedy=f"donor.container={choices[0]}",
        )
    return choices[0]


def _contents(path: Path, checkpoint: Mapping[Any, Any], candidates: Mapping[str, Any], name: str) -> Contents:
    chosen = candidates[name]
    tensors = {key: value for key, value in chosen.items() if isinstance(value, Tensor)}
    nested = {other for other in candidates if other not in (name, TOP)}
    leaves = [
        f"{key} ({kind_of(value)})"
        for key, value in chosen.items()
        if not isinstance(value, Tensor) and (key if name == TOP else f"{name}.{key}") not in nested
    ]
    remarks: list[str] = []
    if name != TOP:
        above = name.split(".", maxsplit=1)[0]
        others = [str(key) for key in checkpoint if str(key) != above and str(key) not in nested]
        remarks.append(f"container {name}" + (f"; left out: {_few(others)}" if others else ""))
    further = [other for other in candidates if other != name]
    remarks += [f"not taken: {other} ({_count(candidates[other])} tensors)" for other in further[:_SHOWN]]
    if leaves:
        remarks.append(f"not tensors, left out: {_few(leaves)}")
    return Contents(tensors=tensors, container=name, remarks=remarks)


def _is_average(name: str) -> bool:
    return any(word in ("ema", "averaged", "swa") for word in name.lower().replace(".", "_").split("_"))


def _count(value: Mapping[str, Any]) -> int:
    return sum(isinstance(inner, Tensor) for inner in value.values())


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:60] for name in names[:_SHOWN]) + more
