"""Finds which layers of two networks correspond, by shapes, by the numbers and words in their names, and by order.

Layers whose names differ only in numbers form a family (`blocks.#.norm1.`). A family of one side is paired with a
family of the other that has the same numbers and shapes. If several match, a word that occurs in both names decides,
then the order of the tensors if it is the network's own. Whatever is still ambiguous is left unpaired, because a wrong
pair with equal shapes would go unnoticed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from graft.models.stages import is_counter
from graft.transfer.ledger import TensorInfo

Infos = Mapping[str, TensorInfo]
Numbers = tuple[str, ...]
_ROLE = re.compile(r"(?:^|(?<=[._]))(weight|bias|running_mean|running_var)$")
_NUMBER = re.compile(r"(?<!\d)(\d{1,9})(?!\d)")
_MOST_LAYERS = 3000  # a message is not worth seconds
_MOST_NUMBERS = 5


@dataclass(frozen=True, slots=True)
class Layer:
    """Tensors that are renamed together: those of a layer, or a single tensor of an unusual kind."""

    stem: str
    """The part of the names before `weight`, `bias` …, with its dot; the whole name of a tensor of another kind."""
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    """The rest of each name after the stem, and the shape."""
    position: int

    @property
    def parts(self) -> list[str]:
        """The words and numbers of the stem in turn, beginning with a word."""
        return _NUMBER.split(self.stem, maxsplit=_MOST_NUMBERS)

    @property
    def names(self) -> list[str]:
        return [self.stem + role for role, _ in self.tensors]


@dataclass(frozen=True, slots=True, eq=False)
class _Family:
    """Layers whose names differ only in these numbers."""

    words: frozenset[str]
    layers: Mapping[Numbers, Layer]

    @property
    def position(self) -> int:
        return min(layer.position for layer in self.layers.values())


def layers_of(infos: Infos) -> list[Layer]:
    """The layers that these tensors belong to, in order, without batch counters, which old files do not have."""
    groups: dict[str, list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
    for name, info in infos.items():
        if not is_counter(name):
            role = _ROLE.search(name)
            stem = name[: role.start()] if role else name
            groups[stem].append((name[len(stem) :], info.shape))
    return [Layer(stem, tuple(sorted(tensors)), place) for place, (stem, tensors) in enumerate(groups.items())]


def is_ordered(infos: Infos) -> bool:
    """Whether the tensors may be in the network's own order; safetensors files sort them by name."""
    names = list(infos)
    return len(names) < 2 or names != sorted(names)


@dataclass(frozen=True, slots=True)
class Alignment:
    """Corresponding layers, as far as they can be determined."""

    pairs: Sequence[tuple[Layer, Layer]]
    """Layers of equal shapes, in the donor's order."""
    undecided: tuple[Sequence[Layer], Sequence[Layer]] = ((), ())
    """Layers of both sides with several partners of equal shapes that are equally likely."""


def align(donor: Infos, target: Infos) -> Alignment:
    """Pairs the layers of both sides except those with the same name. Very large networks are not paired at all."""
    donors, targets = layers_of(donor), layers_of(target)
    if max(len(donors), len(targets)) > _MOST_LAYERS:
        return Alignment(())
    named = {layer.stem for layer in donors} & {layer.stem for layer in targets}
    donors, targets = ([layer for layer in side if layer.stem not in named] for side in (donors, targets))
    work = _Work(donors, targets, ordered=is_ordered(donor))
    for free in range(_MOST_NUMBERS, 0, -1):
        work.pair(free, _by_numbers)
        work.pair(free, _by_ranks)
        work.pair(free, _by_kind)
    work.pair(0, _by_numbers)
    work.pair(0, _by_positions)
    return Alignment([work.pairs[layer.stem] for layer in donors if layer.stem in work.pairs], work.undecided)


class _Work:
    """The pairs so far, and the unpaired layers of both sides."""

    def __init__(self, donors: Sequence[Layer], targets: Sequence[Layer], *, ordered: bool) -> None:
        self.donors = {layer.stem: layer for layer in donors}
        self.targets = {layer.stem: layer for layer in targets}
        self.ordered = ordered
        self.pairs: dict[str, tuple[Layer, Layer]] = {}

    @property
    def undecided(self) -> tuple[Sequence[Layer], Sequence[Layer]]:
        mine, theirs = ({layer.tensors for layer in side.values()} for side in (self.donors, self.targets))
        donors = [layer for layer in self.donors.values() if layer.tensors in theirs]
        return donors, [layer for layer in self.targets.values() if layer.tensors in mine]

    def pair(self, free: int, key: Callable[[_Family], Hashable]) -> None:
        """Pairs families with this many open numbers and an equal key, the largest first."""
        mine, theirs = (_by_key(_families(side.values(), free), key) for side in (self.donors, self.targets))
        keys = [each for each in mine if each is not None and each in theirs]
        for each in sorted(keys, key=lambda one: -len(mine[one][0].layers)):
            donors = [family for family in mine[each] if self._is_left(family, self.donors)]
            targets = [family for family in theirs[each] if self._is_left(family, self.targets)]
            for before, after in _decide(donors, targets, ordered=self.ordered):
                self._take(before, after, in_turn=key is _by_ranks)

    @staticmethod
    def _is_left(family: _Family, side: Mapping[str, Layer]) -> bool:
        return all(layer.stem in side for layer in family.layers.values())

    def _take(self, before: _Family, after: _Family, *, in_turn: bool) -> None:
        """Pairs two families layer by layer: by equal numbers, or in the order of their numbers."""
        if in_turn:
            numbers = zip(sorted(before.layers, key=_value), sorted(after.layers, key=_value), strict=True)
        else:
            numbers = [(each, each) for each in before.layers if each in after.layers]
        for mine, theirs in numbers:
            first, second = before.layers[mine], after.layers[theirs]
            if first.stem in self.donors and second.stem in self.targets:
                self.pairs[first.stem] = (first, second)
                del self.donors[first.stem], self.targets[second.stem]


def _families(layers: Iterable[Layer], free: int) -> list[_Family]:
    """All ways to leave this many numbers open. An open number has at least two values."""
    families: dict[tuple[str | None, ...], dict[Numbers, Layer]] = defaultdict(dict)
    for layer in layers:
        parts = layer.parts
        for chosen in combinations(range(1, len(parts), 2), free):
            pattern = tuple(None if place in chosen else part for place, part in enumerate(parts))
            families[pattern][tuple(parts[place] for place in chosen)] = layer
    return [
        _Family(_words(part for part in pattern if part), layers)
        for pattern, layers in families.items()
        if not free or len(layers) > 1
    ]


def _words(parts: Iterable[str]) -> frozenset[str]:
    return frozenset(word for part in parts for word in re.findall(r"[a-z]+", part.lower()))


def _by_key(families: Iterable[_Family], key: Callable[[_Family], Hashable]) -> dict[Hashable, list[_Family]]:
    grouped: dict[Hashable, list[_Family]] = defaultdict(list)
    for family in families:
        grouped[key(family)].append(family)
    return grouped


def _by_numbers(family: _Family) -> Hashable:
    """The same layers with the same numbers."""
    return frozenset((numbers, layer.tensors) for numbers, layer in family.layers.items())


def _by_ranks(family: _Family) -> Hashable:
    """The same layers with numbers that start elsewhere: layer1 to layer4 and stages.0 to stages.3."""
    columns = [sorted(set(column), key=int) for column in zip(*family.layers, strict=True)]
    return frozenset(
        (tuple(column.index(number) for column, number in zip(columns, numbers, strict=True)), layer.tensors)
        for numbers, layer in family.layers.items()
    )


def _by_kind(family: _Family) -> Hashable:
    """Identical layers numbered from the same start, of which one side has more: a deeper transformer."""
    kinds = {layer.tensors for layer in family.layers.values()}
    firsts = [min(map(int, column)) for column in zip(*family.layers, strict=True)]
    return (tuple(firsts), kinds.pop()) if len(kinds) == 1 else None


def _by_positions(family: _Family) -> Hashable:
    """A position embedding on any grid."""
    (layer,) = family.layers.values()
    (role, shape), *others = layer.tensors
    leaf = layer.stem.rpartition(".")[2]
    return (shape[0], shape[-1]) if not role and not others and "pos" in leaf and len(shape) == 3 else None


def _value(numbers: Numbers) -> list[int]:
    return [int(number) for number in numbers]


def _decide(
    donors: Sequence[_Family], targets: Sequence[_Family], *, ordered: bool
) -> Iterator[tuple[_Family, _Family]]:
    """Pairs among families that could each match several others."""
    left, open_targets = list(donors), list(targets)
    if len(left) == len(open_targets) == 1:
        yield left[0], open_targets[0]
        return
    while (pair := _closest(left, open_targets)) is not None:
        yield pair
        left.remove(pair[0])
        open_targets.remove(pair[1])
    if len(left) == len(open_targets) and (ordered or len(left) == 1):
        yield from zip(*(sorted(side, key=lambda each: each.position) for side in (left, open_targets)), strict=True)


def _closest(donors: Sequence[_Family], targets: Sequence[_Family]) -> tuple[_Family, _Family] | None:
    """The two families that share more words with each other than with any other."""
    for donor in donors:
        target = _best(donor, targets)
        if target is not None and _best(target, donors) is donor:
            return donor, target
    return None


def _best(one: _Family, others: Sequence[_Family]) -> _Family | None:
    ranked = sorted(others, key=lambda each: -len(one.words & each.words))
    shared = [len(one.words & each.words) for each in ranked[:2]]
    return ranked[0] if shared and shared[0] > (shared[1] if len(shared) > 1 else 0) else None
