"""Finds the fewest substitutions that turn the names of one network into those of another."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product

from graft.transfer.alignment import Layer

Rule = tuple[str, str]
_MOST_RULES = 40  # more would be a table that nobody types
_MOST_WAYS = 64
_NUMBER = re.compile(r"(\d+)")


@dataclass(slots=True)
class _Course:
    """Names during the search."""

    wanted: Mapping[str, str]
    """The final name of each name."""
    still: Collection[str]
    """Names that must not change."""
    occupied: Collection[str]
    """Names that no other name may be mapped to."""
    current: dict[str, str] = field(default_factory=dict[str, str])

    def gain(self, rule: Rule) -> int:
        """How many names the rule maps to their final name; 0 if it maps any to a wrong one."""
        regex, gained = re.compile(rule[0]), 0
        for name, before in self.current.items():
            if regex.match(before) is None or (after := regex.sub(rule[1], before)) == before:
                continue
            if after == self.wanted.get(name):
                gained += 1
            elif name in self.wanted or name in self.still or after in self.occupied:
                return 0
        return gained

    def apply(self, rule: Rule) -> None:
        self.current = {name: re.sub(*rule, before) for name, before in self.current.items()}


def rename_rules(
    pairs: Sequence[tuple[Layer, Layer]], names: Collection[str], still: Collection[str], occupied: Collection[str]
) -> list[Rule]:
    """Ordered (pattern, replacement) pairs that map each layer of a pair to its partner, as general as possible.

    Args:
        names: all names that the rules will be applied to.
        still: those of them that must not change.
        occupied: names that only their own partner may be mapped to.
    """
    wanted = {
        before: after
        for mine, theirs in pairs
        for before, after in zip(mine.names, theirs.names, strict=True)
        if before not in still
    }
    course = _Course(wanted, still, {*occupied, *wanted.values()}, {name: name for name in (*names, *still)})
    rules: list[Rule] = []
    for mine, theirs in pairs:
        if all(course.current[name] == wanted.get(name, name) for name in mine.names):
            continue
        gains = {rule: course.gain(rule) for rule in _candidates(mine, theirs)}
        best = max(gains, key=lambda rule: gains[rule], default=None)
        if best is None or not gains[best]:
            continue
        rules.append(best)
        course.apply(best)
        if len(rules) > _MOST_RULES:
            return []
    return rules


def renamed(name: str, rules: Sequence[Rule]) -> str:
    """The name after applying all rules in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _candidates(mine: Layer, theirs: Layer) -> Iterator[Rule]:
    """Rules from one pair, the most general first, based on what remains of both names without their common suffix."""
    before, after = mine.stem.split("."), theirs.stem.split(".")
    shared = 0
    while shared < min(len(before), len(after)) and before[-1 - shared] == after[-1 - shared]:
        shared += 1
    for depth in range(shared, 0, -1):
        head, tail = (["".join(f"{piece}." for piece in side[: len(side) - depth])] for side in (before, after))
        yield from _generalized(head[0], tail[0], end="")
    yield from _generalized(mine.stem, theirs.stem, end="" if mine.tensors[0][0] else "$")


def _generalized(head: str, tail: str, *, end: str) -> Iterator[Rule]:
    """Substitutions of a prefix in which numbers are groups wherever the other side has them too, the most general
    first."""
    before, after = _NUMBER.split(head), _NUMBER.split(tail)
    places = range(1, len(before), 2)
    choices = [[*(place for place in places if before[place] == number), None] for number in after[1::2]]
    ways = sorted(islice(product(*choices), _MOST_WAYS), key=lambda way: sum(place is None for place in way))
    for way in ways:
        groups = sorted({place for place in way if place is not None})
        pattern = "".join(r"(\d+)" if place in groups else re.escape(part) for place, part in enumerate(before))
        numbers = [
            number if place is None else f"\\g<{groups.index(place) + 1}>"
            for number, place in zip(after[1::2], way, strict=True)
        ]
        yield f"^{pattern}{end}", _joined(after[0::2], numbers)


def _joined(words: Sequence[str], numbers: Sequence[str]) -> str:
    r"""Words and numbers in turn, with `\1` for `\g<1>` if no digit follows."""
    text = "".join(word.replace("\\", r"\\") + number for word, number in zip(words, [*numbers, ""], strict=True))
    return re.sub(r"\\g<(\d)>(?!\d)", r"\\\1", text)
