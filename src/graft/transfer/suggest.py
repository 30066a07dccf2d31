"""Suggestions for unexplained tensors: the nearest candidates, and the rules that would explain them.

Nothing here is ever applied. A person reads the suggestions and types what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from graft.transfer.adapt import Site, fitting
from graft.transfer.alignment import Layer, align, is_ordered
from graft.transfer.ledger import TensorInfo
from graft.transfer.names import common, strippings
from graft.transfer.renaming import rename_rules, renamed
from graft.transfer.structure import disagreement

Infos = Mapping[str, TensorInfo]
_LISTED = 8
_NO_RULE = (
    "none: neither names nor shapes tell which tensors belong together; try `graft inspect` on the donor, which names "
    "the models that it may be of"
)


@dataclass(frozen=True, slots=True)
class Settled:
    """What must not be changed, and where each name is mapped to."""

    landing: Mapping[str, str]
    """The name to which each donor name, in full, is mapped so far."""
    donor: Collection[str] = ()
    """Names to which used donor tensors are mapped: no rule may change them."""
    target: Collection[str] = ()
    """Target tensors that are filled or set aside: no other tensor may be mapped to them, and no glob may match
    them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """Rules that would explain donor and target, as far as names and shapes show."""

    rename: tuple[tuple[str, str], ...] = ()
    adapt: Mapping[str, str] = field(default_factory=dict[str, str])
    skip: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    undecided: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Layers of donor and target that could each match several of the other's, with `#` for numbers."""
    structure: bool = False
    """An alternative: both sides have the same shapes in the same order, once these are set aside."""
    structure_skip: tuple[str, ...] = ()
    structure_ignore: tuple[str, ...] = ()
    explained: int = 0
    total: int = 0

    def __str__(self) -> str:
        """The arguments to type, each quoted for a shell."""
        lines = [*_written_renames(self.rename), *_written_adapters(self.adapt)]
        lines += [f"{word} (these keep their initial values)" for word in _globs("skip", self.skip)]
        lines += [f"{word} (these are left unused)" for word in _globs("ignore", self.ignore)]
        if self.structure:
            aside = [*_globs("skip", self.structure_skip), *_globs("ignore", self.structure_ignore)]
            words = " ".join(["or donor.match=structure" if lines else "donor.match=structure", *aside])
            lines.append(f"{words} (every shape agrees, in order; check the pairs in the ledger)")
        if all(self.undecided):
            donors, targets = (", ".join(bounded(side, 4)) for side in self.undecided)
            lines.append(f"and a rename for what names and shapes leave open: which of {donors} are {targets}?")
        if not lines:
            lines.append(_NO_RULE if self.explained < self.total else "none: the names agree as they are")
        return "\n".join(f"  {line}" for line in lines)


def _written_renames(rules: Sequence[tuple[str, str]]) -> list[str]:
    """The renames as arguments. In double quotes a shell keeps backslashes, and in single quotes Hydra and YAML do."""
    pairs = ", ".join(f"['{pattern}', '{replacement}']" for pattern, replacement in rules)
    return [f'"donor.rename=[{pairs}]"'] if rules else []


def _written_adapters(rules: Mapping[str, str]) -> list[str]:
    pairs = ", ".join(f"{name}: {rule}" for name, rule in rules.items())
    return [f'"donor.adapt={{{pairs}}}"'] if rules else []


def _globs(word: str, globs: Sequence[str]) -> list[str]:
    return [f"donor.{word}=[{','.join(globs)}]"] if globs else []


def suggest_rules(
    donor: Infos, target: Infos, settled: Settled | None = None, sequences: tuple[Infos, Infos] | None = None
) -> Suggestion:
    """The renames, adapters, skips and ignores that would make the two sides match; empty if they have nothing in
    common.

    Args:
        donor: the tensors to be explained.
        target: the tensors to be explained.
        settled: the rest of both sides. None: there is no rest.
        sequences: the tensors that match=structure would pair, in order. None: it is not an option.
    """
    if settled is None:
        settled, sequences = Settled(common(strippings(donor)).names), sequences or (donor, target)
    landing = settled.landing
    left = {landing[name]: info for name, info in donor.items()}
    alignment = align(left, target)
    still = [*settled.donor, *(name for layer in alignment.undecided[0] for name in layer.names)]
    rename = rename_rules(alignment.pairs, left, still, settled.target)
    landed = {name: renamed(landing[name], rename) for name in donor}
    met = {place for name, place in landed.items() if place in target and target[place].shape == donor[name].shape}
    adapt = {
        place: rule
        for name, place in landed.items()
        if place in target and place not in met and (rule := _resized(donor[name], place, target[place]))
    }
    met.update(adapt)
    skip = [name for name in target if name not in met]
    ignore = [name for name in donor if landed[name] not in met]
    # What is set aside should be a head, not what is still open, nor most of a network of another architecture.
    few = not all(alignment.undecided) and len(skip) <= (len(target) + len(settled.target)) // 2
    structure = _structure(*sequences) if sequences and len(met) + len(skip) + len(ignore) else None
    return Suggestion(
        rename=tuple(rename),
        adapt=adapt,
        skip=tuple(globs_of(skip, [*target, *settled.target])) if few else (),
        ignore=tuple(globs_of(ignore, landing)) if few else (),
        undecided=_stems(alignment.undecided),
        structure=structure is not None,
        structure_skip=structure[0] if structure else (),
        structure_ignore=structure[1] if structure else (),
        explained=len(met),
        total=len(target),
    )


def _stems(sides: Iterable[Sequence[Layer]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    donors, targets = (
        tuple(dict.fromkeys(re.sub(r"\d+", "#", layer.stem.rstrip("._")) for layer in side)) for side in sides
    )
    return donors, targets


def _resized(info: TensorInfo, name: str, target: TensorInfo) -> str | None:
    rules = fitting(info.shape, Site(name, target.shape))
    return rules[0] if rules and rules[0] == "position_resize" else None


def _structure(donor: Infos, target: Infos) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """What to skip and to ignore so that the rest matches by position. None if only little does.

    A file that sorts its tensors by name does not show the network's own order.
    """
    if not is_ordered(donor) and is_ordered(target):
        return None
    sources, targets = list(donor), list(target)
    shorter = min(len(sources), len(targets))  # what is left of the longer list is skipped or ignored
    pairs = list(zip(sources[:shorter], targets[:shorter], strict=True))
    agreed = next((i for i, (a, b) in enumerate(pairs) if disagreement(donor[a], target[b], a, b)), len(pairs))
    skip, ignore = targets[agreed:], sources[agreed:]
    if not agreed or max(len(skip), len(ignore)) > agreed // 2:
        return None
    return tuple(globs_of(skip, targets)), tuple(globs_of(ignore, sources))


def unexplained(
    donor: Infos,
    target: Infos,
    landing: Mapping[str, str],
    sequences: tuple[Infos, Infos] | None,
    *,
    used: Collection[str],
    unused: Sequence[str],
    unfilled: Sequence[str],
) -> str:
    """The unexplained names of both sides with their nearest candidates, and what to type.

    Args:
        landing: the name that each donor name is mapped to so far.
        sequences: the tensors that match=structure would pair, in order. None: it is not an option.
    """
    left = {landing[name]: donor[name] for name in unused}
    lacking = {name: target[name] for name in unfilled}
    lines = [
        f"{len(unfilled)} of {len(target)} target tensors have no source, "
        f"{len(unused)} of {len(donor)} donor tensors have no use",
        *_listed("target", lacking, left or {landing[name]: info for name, info in donor.items()}),
        *_listed("donor ", left, lacking or target),
    ]
    suggestion = suggested(donor, target, landing, sequences, used=used, unused=unused, unfilled=unfilled)
    return "\n".join([*lines, f"try {str(suggestion).strip()}", *_parametrized(unfilled, unused)])


def suggested(
    donor: Infos,
    target: Infos,
    landing: Mapping[str, str],
    sequences: tuple[Infos, Infos] | None,
    *,
    used: Collection[str],
    unused: Sequence[str],
    unfilled: Sequence[str],
) -> Suggestion:
    """Rules for what is unexplained that leave everything else unchanged."""
    lacking = set(unfilled)
    settled = Settled(landing, [landing[name] for name in used], [name for name in target if name not in lacking])
    return suggest_rules(
        {name: donor[name] for name in unused}, {name: target[name] for name in unfilled}, settled, sequences
    )


def bounded(lines: Sequence[str], limit: int = 20) -> list[str]:
    """The first lines, and the number of further ones."""
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
    """Similarity by name and shape: common parts of the names, the same last part, the same shape."""
    mine, theirs = set(re.split(r"[._]", name)), set(re.split(r"[._]", other))
    same_leaf = name.rpartition(".")[2] == other.rpartition(".")[2]
    return len(mine & theirs) / len(mine | theirs) + 0.25 * same_leaf + 0.75 * (info.shape == other_info.shape)


def globs_of(names: Iterable[str], universe: Iterable[str]) -> list[str]:
    """Globs that match these names and no others, by the shortest module prefix that contains only them."""
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
    """A hint about weights that a parametrization has split."""
    for names, whose in ((unfilled, "target"), (unused, "donor")):
        for name in names:
            if ".parametrizations." in f".{name}" or name.endswith(("weight_g", "weight_v", "weight_orig")):
                return [
                    f"{name} belongs to a parametrized {whose} module (weight_norm, spectral_norm …), whose plain "
                    "weight is computed; try torch.nn.utils.parametrize.remove_parametrizations on it (or "
                    "remove_weight_norm) before the transfer and parametrize again after it"
                ]
    return []
