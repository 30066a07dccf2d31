"""Spellings: the names that a library gives the tensors of one kind of network, and the meaning of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

Meaning = str | Callable[[re.Match[str]], str]
"""A template for `Match.expand`, or a function if numbers are counted differently."""


def counted_by_two(common: str) -> Meaning:
    """For torchvision's features, which number stages and the layers between them consecutively: stages are 1, 3, 5 and
    7.

    Args:
        common: a text for `str.format`, with the stage and then the pattern's other groups.
    """

    def meaning(match: re.Match[str]) -> str:
        number, *others = match.groups()
        return common.format(int(number) // 2, *others)

    return meaning


@dataclass(frozen=True, slots=True)
class Spelling:
    """Patterns of names, each with the common name of its tensor. All spellings of a network share the common names.

    Separate query, key and value are `….q.weight`, `….k.weight` and `….v.weight`; joined ones are `….qkv.weight`.
    """

    owner: str
    """The owner of the names in the genitive: `timm's`."""
    network: str
    sign: str
    """A pattern for the end of a name by which the spelling is recognised."""
    rules: Mapping[str, Meaning]
    idle: Mapping[str, str] = field(default_factory=dict[str, str])
    """Patterns of names without effect on the function, each with the reason."""
    front: str = ""
    """Pattern of a prefix before the names of the model itself, such as `vit.` in a model with a head."""

    def read(self, names: Collection[str]) -> Reading | None:
        """The meaning of the names; None if they are not in this spelling, or belong to two networks at once."""
        sign = re.compile(rf"((?:.+?\.)??){self.front}{self.sign}")
        outers = {match[1] for name in names if (match := sign.fullmatch(name))}
        if len(outers) != 1:
            return None
        outer = outers.pop()
        rules = [(re.compile(f"{self.front}(?:{pattern})"), meaning) for pattern, meaning in self.rules.items()]
        idle = [(re.compile(f"{self.front}(?:{pattern})"), reason) for pattern, reason in self.idle.items()]
        common, excused = dict[str, str](), dict[str, str]()
        for name in names:
            inner = name.removeprefix(outer)
            if not name.startswith(outer):
                continue
            for pattern, meaning in rules:
                if match := pattern.fullmatch(inner):
                    common[name] = match.expand(meaning) if isinstance(meaning, str) else meaning(match)
            for pattern, reason in idle:
                if pattern.fullmatch(inner):
                    excused[name] = reason
        return Reading(self, common, excused) if common else None


@dataclass(frozen=True, slots=True)
class Reading:
    """Names as interpreted by a spelling."""

    spelling: Spelling
    common: Mapping[str, str]
    """Common names by name."""
    idle: Mapping[str, str]
    """Names without effect, with the reason."""
