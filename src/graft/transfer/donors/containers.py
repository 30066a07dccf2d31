"""Which part of a checkpoint holds the tensors: found by what is in it, chosen by option where there is a choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from graft.config.faults import nearest
from graft.transfer.donors.refusal import refused

TOP = "."
"""The name of the checkpoint's own level, for donor.container."""
_DEPTH = 3
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The tensors of one container, and what was seen on the way to them."""

    tensors: dict[str, Tensor]
    container: str
    remarks: list[str]


def choose(path: Path, checkpoint: object, *, container: str | None, ema: bool) -> Contents:
    """The state dict inside a checkpoint.

    Args:
        checkpoint: What the file held: a mapping of tensors, or mappings of such.
        container: Dotted path of the wanted one (`state_dict`, `model.encoder`, `.` for the checkpoint's own level).
        ema: Take the averaged weights.

    Raises:
        InputError: Nothing holds tensors, the wanted one does not exist, or several could be meant.
    """
    if not isinstance(checkpoint, Mapping):
        raise refused(
            path,
            expected="a mapping of names to tensors",
            received=f"a single {type(checkpoint).__name__}",
            remedy="torch.save(model.state_dict(), …)",
        )
    found: dict[str, Mapping[str, Any]] = {}
    _collect(checkpoint, TOP, found, _DEPTH)
    if not found:
        keys = ", ".join(str(key)[:40] for key in list(checkpoint)[:_SHOWN]) or "nothing"
        raise refused(
            path,
            expected="a mapping of names to tensors, or one that contains such a mapping (state_dict, model, …)",
            received=f"a checkpoint with no tensors under names (it holds {keys})",
            remedy="torch.save(model.state_dict(), …)",
        )
    name = _pick(path, found, container=container, ema=ema)
    return _contents(path, checkpoint, found, name)


def _collect(value: Mapping[Any, Any], name: str, found: dict[str, Mapping[str, Any]], depth: int) -> None:
    """Every mapping under `value` that has tensors directly in it and only strings for names."""
    if value and all(isinstance(key, str) for key in value) and any(isinstance(v, Tensor) for v in value.values()):
        found[name] = value
    if depth == 0:
        return
    for key, inner in value.items():
        if isinstance(key, str) and isinstance(inner, Mapping):
            _collect(inner, key if name == TOP else f"{name}.{key}", found, depth - 1)


def _pick(path: Path, found: Mapping[str, Any], *, container: str | None, ema: bool) -> str:
    listed = ", ".join(f"{name} ({_count(found[name])} tensors)" for name in found)
    if container is not None:
        if container not in found:
            close = nearest(container, found) or list(found)
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
    averaged = [name for name in found if _is_average(name)]
    if ema and not averaged:
        raise refused(
            path,
            expected="averaged weights (state_dict_ema, model_ema, …) for donor.ema=true",
            received=f"a file with {listed}",
            remedy="donor.ema=false, or donor.container=NAME",
        )
    choices = averaged if ema else [name for name in found if not _is_average(name)] or averaged
    if len(choices) > 1:
        raise refused(
            path,
            expected="one mapping of tensors, or donor.container to say which",
            received=f"a file with {listed}",
            remedy=f"donor.container={choices[0]}",
        )
    return choices[0]


def _contents(path: Path, checkpoint: Mapping[Any, Any], found: Mapping[str, Any], name: str) -> Contents:
    chosen = found[name]
    tensors = {key: value for key, value in chosen.items() if isinstance(value, Tensor)}
    nested = {other for other in found if other not in (name, TOP)}
    leaves = [
        f"{key} ({type(value).__name__})"
        for key, value in chosen.items()
        if not isinstance(value, Tensor) and (key if name == TOP else f"{name}.{key}") not in nested
    ]
    remarks: list[str] = []
    if name != TOP:
        above = name.split(".", maxsplit=1)[0]
        others = [str(key) for key in checkpoint if str(key) != above and str(key) not in nested]
        remarks.append(f"container {name}" + (f"; left out: {_few(others)}" if others else ""))
    remarks += [f"not taken: {other} ({_count(found[other])} tensors)" for other in found if other != name]
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
