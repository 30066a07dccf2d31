"""What to say about tensors that nothing explains: the nearest candidates, and the rules that would explain them.

Nothing here is ever applied; a person reads it and types what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from graft.models.names import COUNTER
from graft.transfer.ledger import TensorInfo
from graft.transfer.names import common, strippings

Infos = Mapping[str, TensorInfo]
_LISTED = 8
_MOST_MODULES = 1500  # aligning grows with the square of the modules; a message is not worth seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """Rules that would explain donor and target, as far as names and shapes tell."""

    rename: tuple[tuple[str, str], ...] = ()
    skip: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    structure: bool = False
    """Both sides have the same shapes in the same order."""
    explained: int = 0
    total: int = 0

    def __str__(self) -> str:
        lines: list[str] = []
        if self.rename:
            pairs = ", ".join(f"['{pattern}', '{replacement}']" for pattern, replacement in self.rename)
            lines.append(f"donor.rename=[{pairs}]")
        if self.structure:
            lines.append("donor.match=structure (every shape agrees, in order; check the pairs in the ledger)")
        if self.skip:
            lines.append(f"donor.skip=[{', '.join(self.skip)}] (these keep their initial values)")
        if self.ignore:
            lines.append(f"donor.ignore=[{', '.join(self.ignore)}] (these are left unused)")
        return "\n".join(f"  {line}" for line in lines) or "  none: the names agree as they are"


def suggest_rules(
    donor: Infos, target: Infos, *, donor_names: Iterable[str] = (), target_names: Iterable[str] = ()
) -> Suggestion:
    """The renames, skips and ignores under which the two sides would meet.

    Args:
        donor: Tensors to be explained.
        target: Tensors to be explained.
        donor_names: Further names, explained already, that no suggested glob may cover.
        target_names: Likewise.
    """
    stripped = common(strippings(donor)).names
    sources = {stripped[name]: info for name, info in donor.items()}
    rename = _renames(sources, target)
    landed = {_rename(name, rename): info for name, info in sources.items()}
    met = {name for name, info in landed.items() if name in target and target[name].shape == info.shape}
    unmet = [name for name in sources if _rename(name, rename) not in met]
    shapes = [[info.shape for info in side.values()] for side in (donor, target)]
    return Suggestion(
        rename=tuple(rename),
        skip=tuple(globs_of([name for name in target if name not in met], [*target, *target_names])),
        ignore=tuple(globs_of(unmet, [*sources, *donor_names])),
        structure=shapes[0] == shapes[1] and len(met) < len(target),
        explained=len(met),
        total=len(target),
    )


def unexplained(
    donor: Infos, target: Infos, unused: Sequence[str], unfilled: Sequence[str], landing: Mapping[str, str]
) -> str:
    """Both sides' unexplained names with their nearest candidates, and what to type."""
    left = {landing[name]: donor[name] for name in unused}
    lacking = {name: target[name] for name in unfilled}
    lines = [
        f"{len(unfilled)} of {len(target)} target tensors have no source, "
        f"{len(unused)} of {len(donor)} donor tensors have no use",
        *_listed("target", lacking, left or {landing[name]: info for name, info in donor.items()}),
        *_listed("donor ", left, lacking or target),
    ]
    found = suggest_rules(left, lacking, donor_names=landing.values(), target_names=target)
    lines += [f"try {str(found).strip()}"] if left or lacking else []
    return "\n".join([*lines, *_parametrized(unfilled, unused)])


def bounded(lines: Sequence[str], limit: int = 20) -> list[str]:
    """The first lines, and how many more there are."""
    return [*lines[:limit], *([f"… and {len(lines) - limit} more"] if len(lines) > limit else [])]


def _listed(whose: str, names: Infos, others: Infos) -> list[str]:
    other = "target" if whose.strip() == "donor" else "donor"
    lines = [
        f"  {whose} {name} {info.shape}{_near(name, info, others, other)}"
        for name, info in list(names.items())[:_LISTED]
    ]
    return [*lines, *([f"  … and {len(names) - _LISTED} more {whose.strip()} names"] if len(names) > _LISTED else [])]


def _near(name: str, info: TensorInfo, others: Infos, other: str) -> str:
    best = max(others, key=lambda each: _likeness(name, info, each, others[each]), default=None)
    if best is None or _likeness(name, info, best, others[best]) <= 0:
        return ""
    return f" (nearest {other}: {best} {others[best].shape})"


def _likeness(name: str, info: TensorInfo, other: str, other_info: TensorInfo) -> float:
    """By name and shape: shared pieces of the names, the same last piece, the same shape."""
    mine, theirs = set(re.split(r"[._]", name)), set(re.split(r"[._]", other))
    same_leaf = name.rpartition(".")[2] == other.rpartition(".")[2]
    return len(mine & theirs) / len(mine | theirs) + 0.25 * same_leaf + 0.75 * (info.shape == other_info.shape)


def globs_of(names: Iterable[str], universe: Iterable[str]) -> list[str]:
    """Globs that cover these names and no other: by the shortest module prefix that holds only them."""
    wanted = dict.fromkeys(names)
    others = [name for name in universe if name not in wanted]
    foreign = {name[:i] for name in others for i, letter in enumerate(name) if letter == "."}
    globs: dict[str, None] = {}
    for name in wanted:
        ends = [i for i, letter in enumerate(name) if letter == "."]
        free = [name[:end] for end in ends if name[:end] not in foreign]
        globs[f"{free[0]}.*" if free else name] = None
    return list(globs)


def _parametrized(unfilled: Sequence[str], unused: Sequence[str]) -> list[str]:
    """A word on weights that a parametrization has split."""
    for names, whose in ((unfilled, "target"), (unused, "donor")):
        for name in names:
            if ".parametrizations." in f".{name}" or name.endswith(("weight_g", "weight_v", "weight_orig")):
                return [
                    f"{name} belongs to a parametrized {whose} module (weight_norm, spectral_norm …), whose plain "
                    "weight is computed; try torch.nn.utils.parametrize.remove_parametrizations on it (or "
                    "remove_weight_norm) before the transfer and parametrize again after it"
                ]
    return []


def _renames(donor: Infos, target: Infos) -> list[tuple[str, str]]:
    """Prefix substitutions that bring the donor's modules onto the target's, in order; [] where none is consistent."""
    pairs = _module_pairs(donor, target)
    left = [pair for pair in pairs if pair[0] != pair[1]]
    rules: list[tuple[str, str]] = []
    while left:
        rule = next((rule for rule in _candidates(*left[0]) if _consistent(rule, pairs)), None)
        if rule is None:
            left = left[1:]
            continue
        rules.append(rule)
        left = [pair for pair in left[1:] if re.sub(*rule, f"{pair[0]}.") != f"{pair[1]}."]
    agree = all(_rename(f"{before}.", rules) == f"{after}." for before, after in pairs)
    return rules if agree else []


def _module_pairs(donor: Infos, target: Infos) -> list[tuple[str, str]]:
    """Donor and target modules aligned in order by the names and shapes of their own tensors."""
    sides = [_modules(donor), _modules(target)]
    if max(map(len, sides)) > _MOST_MODULES:
        return []
    signatures = [list(side.values()) for side in sides]
    blocks = SequenceMatcher(None, *signatures, autojunk=False).get_matching_blocks()
    names = [list(side) for side in sides]
    return [(names[0][a + i], names[1][b + i]) for a, b, size in blocks for i in range(size)]


def _modules(infos: Infos) -> dict[str, tuple[tuple[str, tuple[int, ...]], ...]]:
    modules: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for name, info in infos.items():
        module, _, leaf = name.rpartition(".")
        if leaf != COUNTER:
            modules.setdefault(module, []).append((leaf, info.shape))
    return {module: tuple(sorted(leaves)) for module, leaves in modules.items()}


def _candidates(before: str, after: str) -> Iterable[tuple[str, str]]:
    """Rules from one pair of modules, the most general first: what is left after taking off their common end."""
    mine, theirs = [piece for piece in before.split(".") if piece], [piece for piece in after.split(".") if piece]
    shared = 0
    while shared < min(len(mine), len(theirs)) and mine[-1 - shared] == theirs[-1 - shared]:
        shared += 1
    for kept in range(shared, -1, -1):
        head, tail = mine[: len(mine) - kept], theirs[: len(theirs) - kept]
        pattern = "^" + "".join(re.escape(piece) + r"\." for piece in head)
        yield pattern, "".join(f"{piece}." for piece in tail)


def _consistent(rule: tuple[str, str], pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether the rule leaves each module as it is or takes it to its partner."""
    results = [(re.sub(*rule, f"{before}."), f"{before}.", f"{after}.") for before, after in pairs]
    return all(
        result == after or (result == before and not re.match(rule[0], before)) for result, before, after in results
    )


def _rename(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
