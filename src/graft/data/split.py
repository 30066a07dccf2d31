"""Carving a part off a list of images: by a hash of each image's own name, so that it needs no random generator.

The same names and seed give the same part on every machine and in every version; an image added later moves few others.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence


def carve(names: Sequence[str], strata: Sequence[Hashable], fraction: float, seed: int) -> frozenset[int]:
    """Positions of a share of the names, the same share of every stratum as nearly as whole numbers allow.

    The total is `fraction` of all, to the nearest; what rounding leaves over goes to the strata with the largest
    remainders.

    Args:
        strata: one label a name.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for position, stratum in enumerate(strata):
        members[stratum].append(position)
    quotas = _quotas({stratum: len(positions) for stratum, positions in members.items()}, fraction)
    carved: list[int] = []
    for stratum, positions in members.items():
        ranked = sorted(positions, key=lambda position: (_rank(names[position], seed), names[position]))
        carved.extend(ranked[: quotas[stratum]])
    return frozenset(carved)


def _quotas(sizes: dict[Hashable, int], fraction: float) -> dict[Hashable, int]:
    exact = {stratum: size * fraction for stratum, size in sizes.items()}
    quotas = {stratum: int(share) for stratum, share in exact.items()}
    left_over = int(sum(sizes.values()) * fraction + 0.5) - sum(quotas.values())
    by_remainder = sorted(sizes, key=lambda stratum: (quotas[stratum] - exact[stratum], repr(stratum)))
    for stratum in by_remainder[:left_over]:
        quotas[stratum] += 1
    return quotas


def _rank(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
