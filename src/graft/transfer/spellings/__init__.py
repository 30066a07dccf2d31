"""Tensor names of the same network in several libraries: maps Hugging Face's files to timm's and torchvision's own
models.

The spelling of each side is recognised by its names. Both are mapped to common names. Tensors with the same common name
are paired, separate query, key and value are joined, and tensors with other shapes are adapted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

from graft.transfer.ledger import TensorInfo
from graft.transfer.spellings.convolutions import (
    COMMON_RESNET,
    HUGGING_FACE_CONVNEXT,
    HUGGING_FACE_RESNET,
    TIMM_CONVNEXT,
    TORCHVISION_CONVNEXT,
)
from graft.transfer.spellings.spelling import Reading
from graft.transfer.spellings.transformers import (
    HUGGING_FACE_SWIN,
    HUGGING_FACE_VIT,
    META_DINOV2,
    TIMM_SWIN,
    TIMM_VIT,
    TORCHVISION_SWIN,
    TORCHVISION_VIT,
)

__all__ = ["Reading", "Translation", "joined_shapes", "read", "translate"]

Infos = Mapping[str, TensorInfo]
_DONORS = (HUGGING_FACE_VIT, HUGGING_FACE_SWIN, HUGGING_FACE_RESNET, HUGGING_FACE_CONVNEXT, META_DINOV2)
_TARGETS = (TIMM_VIT, TORCHVISION_VIT, TIMM_SWIN, TORCHVISION_SWIN, COMMON_RESNET, TIMM_CONVNEXT, TORCHVISION_CONVNEXT)
_PARTS = {"qkv": ("q", "k", "v"), "fc1": ("gate", "up")}
"""Parts that are one tensor in some networks and several in others, in the order of rows."""
_CLASS, _POSITIONS = "cls", "pos"


@dataclass(frozen=True, slots=True)
class Translation:
    """The target name of each donor name, and the adapters for their values."""

    rule: str
    names: Mapping[str, str]
    adapters: Mapping[str, Sequence[Mapping[str, Any]]]
    """Rules by target name, as a user would write them."""
    idle: Mapping[str, str]
    """Donor names without effect, with the reason."""


def read(names: Collection[str]) -> Reading | None:
    """The donor's names in the spelling that recognises the most of them; None if none does."""
    readings = [reading for spelling in _DONORS if (reading := spelling.read(names)) is not None]
    return max(readings, key=lambda reading: len(reading.common), default=None)


def translate(donor: Infos, target: Infos) -> Translation | None:
    """The mapping from the donor's names to the target's; None unless both are the same kind of network.

    Args:
        donor: tensors by the names to which they are mapped so far.
    """
    mine = read(donor)
    if mine is None:
        return None
    theirs = next(
        (
            reading
            for spelling in _TARGETS
            if spelling.network == mine.spelling.network and (reading := spelling.read(target)) is not None
        ),
        None,
    )
    return None if theirs is None else _Link(donor, target, mine, theirs).translation()


@dataclass(slots=True)
class _Link:
    donor: Infos
    target: Infos
    mine: Reading
    theirs: Reading
    names: dict[str, str] = field(default_factory=dict[str, str])
    adapters: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict[str, "list[Mapping[str, Any]]"])

    def translation(self) -> Translation:
        sources = {common: name for name, common in self.mine.common.items()}
        for place, common in self.theirs.common.items():
            parts = _parts(common)
            if common in sources:
                self.names[sources[common]] = place
                self._squeeze(sources[common], place)
            elif parts and sources.keys() >= set(parts):
                names = [sources[part] for part in parts]
                self.names |= dict.fromkeys(names, place)
                self.adapters[place] = [{"name": "join", "order": _differing(names)}]
        self._settle_positions()
        rule = f"{self.mine.spelling.owner} {self.mine.spelling.network} by {self.theirs.spelling.owner} names"
        return Translation(rule, self.names, self.adapters, self.mine.idle)

    def _squeeze(self, source: str, place: str) -> None:
        before, after = self.donor[source].shape, self.target[place].shape
        if before != after and [side for side in before if side != 1] == [side for side in after if side != 1]:
            self.adapters[place] = [{"name": "squeeze"}]

    def _settle_positions(self) -> None:
        """Adds the position embedding to the class token if the target's position embeddings have none for it."""
        places = {common: place for place, common in self.theirs.common.items()}
        sources = {common: name for name, common in self.mine.common.items()}
        if not {_CLASS, _POSITIONS} <= sources.keys() & places.keys() or "dist" in sources:
            return
        before, after = self.donor[sources[_POSITIONS]].shape, self.target[places[_POSITIONS]].shape
        if len(before) == len(after) == 3 and _is_grid(before[1] - 1) and _is_grid(after[1]):
            self.adapters[places[_POSITIONS]] = [{"name": "position_drop", "tokens": 1}]
            self.adapters[places[_CLASS]] = [{"name": "class_position", "positions": places[_POSITIONS]}]


def joined_shapes(reading: Reading, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes as in timm, under common names: with joined parts, and without tensors that have no effect."""
    joined: dict[str, tuple[int, ...]] = {}
    wholes = {part: whole for whole, parts in _PARTS.items() for part in parts}
    for name, shape in shapes.items():
        if name in reading.idle:
            continue
        common = reading.common.get(name, name)
        front, part, leaf = _pieces(common)
        if part not in wholes or name not in reading.common or not shape:
            joined[common] = shape
        else:
            whole = ".".join([front, wholes[part], leaf])
            joined[whole] = (joined[whole][0] + shape[0], *shape[1:]) if whole in joined else shape
    positions = joined.get(_POSITIONS, ())
    if "reg" in joined and len(positions) == 3:
        joined[_POSITIONS] = (positions[0], positions[1] - 1, positions[2])
    return joined


def _parts(common: str) -> list[str]:
    """The common names of the parts of a tensor, if it can be joined from parts."""
    front, whole, leaf = _pieces(common)
    return [".".join([front, part, leaf]) for part in _PARTS.get(whole, ())]


def _pieces(common: str) -> tuple[str, str, str]:
    """`block.0`, `qkv` and `weight`."""
    front, _, leaf = common.rpartition(".")
    return front.rpartition(".")[0], front.rpartition(".")[2], leaf


def _differing(names: Sequence[str]) -> list[str]:
    """The one word in each name that distinguishes it from the others."""
    split = [name.split(".") for name in names]
    place = next(i for i, words in enumerate(zip(*split, strict=True)) if len(set(words)) > 1)
    return [words[place] for words in split]


def _is_grid(tokens: int) -> bool:
    return tokens > 0 and isqrt(tokens) ** 2 == tokens
