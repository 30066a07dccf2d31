"""Which parameters have no weight decay: those that are not weights of a layer, and those that the model or the user
names.

Weight decay pulls parameters towards zero. There is no reason for a bias, a scale or a token to be small, and a table
of positions is only looked up and multiplies nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import cast

from torch import nn

from graft.config.faults import InputError, nearest

BIAS, NORM, VECTOR = "bias", "norm", "one-dimensional"
TABLE = "token or position"
LIBRARY = "the model's own no_weight_decay()"
CONFIG = "optimizer.no_decay"

NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
_LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
"""Layers whose weight is a matrix even if it has only one row, as in a head with one output."""
_LOOKED_UP = re.compile(
    r"(cls|class|dist|distill|distillation|reg|register|mask|storage)_?(token|emb)"
    r"|pos(ition|itional)?_?(emb|enc|bias)|rel(ative)?_?pos|attention_bias",
    re.IGNORECASE,
)
"""Names of class, distillation and register tokens, position embeddings, relative positions and attention biases."""


def undecayed(module: nn.Module, patterns: Sequence[str] = ()) -> dict[str, str]:
    """Each parameter without weight decay, under all its names, with the reason.

    Args:
        patterns: globs of further names.

    Raises:
        InputError: a glob excludes nothing.
    """
    reasons: dict[str, str] = {}
    for name, _, reason in _by_kind(module):
        if reason is not None:
            reasons[name] = reason
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    by_library = list(_named_by_library(module))
    for name in names:
        if name not in reasons and any(fnmatchcase(name, glob) for glob in by_library):
            reasons[name] = LIBRARY
    for glob in patterns:
        matched = [name for name in names if fnmatchcase(name, glob)]
        further = [name for name in matched if reasons.get(name, CONFIG) == CONFIG]
        if not further:
            raise _without_effect(glob, matched, names, reasons)
        reasons |= dict.fromkeys(further, CONFIG)
    return reasons


def _by_kind(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, str | None]]:
    for path, part in module.named_modules(remove_duplicate=False):
        for leaf, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{path}.{leaf}" if path else leaf
            yield name, parameter, _reason(part, path, leaf, parameter)


def _reason(part: nn.Module, path: str, leaf: str, parameter: nn.Parameter) -> str | None:
    if leaf == "bias":
        return BIAS
    if isinstance(part, NORMS):
        return NORM
    if isinstance(part, _LAYERS) and leaf == "weight":
        return None
    if isinstance(part, nn.Embedding):
        return TABLE if _LOOKED_UP.search(path) else None
    if _LOOKED_UP.search(f"{path}.{leaf}"):
        return TABLE
    # [C, 1, 1] scales of layers, [O, 1, 1, 1] gains and magnitudes of weight_norm
    return VECTOR if sum(side > 1 for side in parameter.shape) <= 1 else None


def _named_by_library(module: nn.Module) -> Iterator[str]:
    """Globs of names, interpreted as timm does, from the module and its submodules."""
    for path, part in module.named_modules():
        own = getattr(part, "no_weight_decay", None)
        if callable(own):
            for name in cast("Iterable[str]", own()):
                yield f"{path}.{name}" if path else str(name)


def _without_effect(glob: str, matched: Sequence[str], names: Sequence[str], reasons: dict[str, str]) -> InputError:
    if matched:
        reason = f"which names only parameters without weight decay ({matched[0]}: {reasons[matched[0]]})"
        remedy = "removing it"
    else:
        reason, remedy = "which names no parameter", ", ".join(nearest(glob, names)) or f"{names[0]}"
    return InputError(
        f"optimizer.no_decay: expected globs of parameters' names, received {glob!r}, {reason}; try {remedy}"
    )
