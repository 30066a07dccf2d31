"""Carving a part off a list of images: by a hash of each image's own name, so that it needs no random generator.

The same names and seed give the same part on every machine and in every version; an image added later moves few others.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence


def carve(
    names: Sequence[str],
    strata: Sequence[Hashable],
    fraction: float,
    seed: int,
    groups: Sequence[Hashable] | None = None,
) -> frozenset[int]:
    """Positions of a share of the names, the same share of every stratum as nearly as whole groups allow.

    The total is `fraction` of all, to the nearest; what rounding leaves over goes to the strata with the largest
    remainders. A group goes by the first of its names: it is taken where that brings the shares nearer to their quotas.

    Args:
        strata: one label a name.
        groups: one a name; those of a group are never parted. None: each name is its own.
    """
    lacking = _quotas(Counter(strata), fraction)
    members: dict[Hashable, list[int]] = defaultdict(list)
    for position in range(len(names)):
        members[position if groups is None else groups[position]].append(position)
    first = {group: min(names[position] for position in positions) for group, positions in members.items()}
    carved: list[int] = []
    for group in sorted(members, key=lambda group: (_rank(first[group], seed), first[group])):
        sizes = Counter(strata[position] for position in members[group])
        if sum(size * (size - 2 * lacking[stratum]) for stratum, size in sizes.items()) < 0:  # of squared distances
            carved.extend(members[group])
            for stratum, size in sizes.items():
                lacking[stratum] -= size
    return frozenset(carved)


def divide(
    names: Sequence[str], strata: Sequence[Hashable], count: int, seed: int, groups: Sequence[Hashable]
) -> list[int]:
    """The fold of each name, of so many: one after the other is carved off what is left, in equal shares.

    Args:
        strata: one label a name.
        groups: one a name; those of a group are in one fold.
    """
    fold_of, left = [count - 1] * len(names), list(range(len(names)))
    for fold in range(count - 1):
        carved = carve(
            [names[k] for k in left], [strata[k] for k in left], 1 / (count - fold), seed, [groups[k] for k in left]
        )
        for position in carved:
            fold_of[left[position]] = fold
        left = [place for position, place in enumerate(left) if position not in carved]
    return fold_of


def connected(*keys: Sequence[Hashable]) -> list[int]:
    """A number for each image: the same for images that share a value of any of these keys, also by way of others.

    Args:
        keys: each one value an image; an empty value ("") is shared with none.

    Example:
        >>> connected(["a", "a", "b", "b", ""], ["1", "2", "2", "3", "4"])
        [0, 0, 0, 0, 4]
    """
    leader = list(range(len(keys[0])))

    def leader_of(position: int) -> int:
        while leader[position] != position:
            leader[position] = position = leader[leader[position]]
        return position

    for values in keys:
        first: dict[Hashable, int] = {}
        for position, value in enumerate(values):
            if value != "":
                one, other = leader_of(position), leader_of(first.setdefault(value, position))
                leader[max(one, other)] = min(one, other)
    return [leader_of(position) for position in range(len(leader))]


def _quotas(sizes: Counter[Hashable], fraction: float) -> dict[Hashable, int]:
    exact = {stratum: size * fraction for stratum, size in sizes.items()}
    quotas = {stratum: int(share) for stratum, share in exact.items()}
    left_over = int(sum(sizes.values()) * fraction + 0.5) - sum(quotas.values())
    by_remainder = sorted(sizes, key=lambda stratum: (quotas[stratum] - exact[stratum], repr(stratum)))
    for stratum in by_remainder[:left_over]:
        quotas[stratum] += 1
    return quotas


def _rank(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
