"""Splits lists of images by a hash of each image's name, without a random generator.

The same names and seed give the same split on every machine and in every version. Adding an image moves few others.
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
    """Selects a fraction of the names, with the same fraction of every stratum as far as whole groups allow.

    The quotas of the strata add up to `fraction` of all names, rounded to the nearest, by the largest-remainder method.
    Groups are visited in the order of the hash of their first name. A group is selected if that reduces the squared
    distance to the quotas.

    Args:
        strata: the stratum of each name.
        groups: the group of each name. A group is selected as a whole. None: each name is a group.

    Returns:
        The indices of the selected names.

    Example:
        >>> sorted(carve(["a", "b", "c", "d"], [0, 0, 1, 1], 0.5, seed=1))
        [0, 3]
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
    """The fold of each name. Folds are selected one after the other, in equal shares, by `carve`.

    Args:
        strata: the stratum of each name.
        count: the number of folds.
        groups: the group of each name. All names of a group are in the same fold.
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
    """The connected component of each image. Images are connected if they share a value of any key.

    Args:
        keys: for each key, one value per image. The empty value "" connects nothing.

    Returns:
        For each image, the index of the first image of its component.

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
