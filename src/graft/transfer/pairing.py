"""Finds a source for each target name, or a reason to have none: skips, renames, prefixes, tables, order, tied
weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from graft.config.faults import nearest
from graft.config.patterns import instead_of_glob
from graft.models.stages import is_counter
from graft.transfer.adapt import Adapter, Chain, Combining, Misfit, Site, fit, parse
from graft.transfer.layer_settings import Differences
from graft.transfer.ledger import TensorInfo
from graft.transfer.names import Globs, Landing, Rename, Stripped, common, land, parse_renames, strippings
from graft.transfer.rules import Rules
from graft.transfer.spellings import translate
from graft.transfer.structure import disagreement

Infos = Mapping[str, TensorInfo]


@dataclass(frozen=True, slots=True)
class Pair:
    sources: tuple[str, ...]
    rule: str = ""
    tied_to: str | None = None

    @property
    def source(self) -> str:
        """The donor tensor that is mapped to the target, or the first of those that are combined into it."""
        return self.sources[0]


@dataclass(slots=True)
class Pairing:
    """The work in progress: the state of each name, and every fault so far."""

    donor: Infos
    target: Infos
    rules: Rules
    ties: Mapping[str, str]
    fold_epsilon: bool = False
    wrappers: Sequence[str] = ()
    pairs: dict[str, Pair] = field(default_factory=dict[str, Pair])
    own_values: dict[str, tuple[str, str, Chain | None]] = field(
        default_factory=dict[str, "tuple[str, str, Chain | None]"]
    )
    """Rule, reason and initialiser of each target name without a source."""
    excused: dict[str, str] = field(default_factory=dict[str, str])
    adapters: dict[str, tuple[Adapter, ...]] = field(default_factory=dict[str, "tuple[Adapter, ...]"])
    globs: dict[str, str] = field(default_factory=dict[str, str])
    """The user's adapt glob that covers each target name."""
    automatic: dict[str, str] = field(default_factory=dict[str, str])
    """The automatic adapt glob that covers each target name."""
    differences: Differences = field(default_factory=Differences)
    remarks: list[str] = field(default_factory=list[str])
    faults: list[str] = field(default_factory=list[str])

    def site(self, name: str) -> Site:
        info, pair = self.target[name], self.pairs.get(name)
        before = self.donor[pair.source].epsilon if pair is not None else None
        return Site(name, info.shape, info.transposed, self.rules.seed, info.epsilon, before)


def cover(work: Pairing) -> None:
    """Sets aside skipped and re-initialised targets, and reads the adapters."""
    rules = work.rules
    skip = Globs(rules.skip, rules.auto_skip, "skip")
    for name in work.target:
        reason = skip.reason(name)
        if reason is not None:
            work.own_values[name] = ("", reason, None)
    work.faults += [
        f"donor.skip: {glob!r} covers no target tensor{near_globs(glob, work.target)}" for glob in skip.idle
    ]
    for glob, settings in rules.adapt.items():
        _read_adapter(work, glob, settings, work.globs)
    for glob, settings in rules.auto_adapt.items():
        _read_adapter(work, glob, settings, work.automatic)
    for name, adapters in work.adapters.items():
        if name not in work.own_values and not all(adapter.reads_donor for adapter in adapters):
            _initialise(work, name, adapters)


def _read_adapter(work: Pairing, glob: str, settings: object, globs: dict[str, str]) -> None:
    """Parses one rule for the targets that it covers, and records its glob in `globs` (the user's or the automatic
    ones)."""
    automatic = globs is work.automatic
    covered = Globs([glob], {}, "adapt")
    names = [name for name in work.target if covered.reason(name) is not None]
    if not names and not automatic:
        work.faults.append(f"donor.adapt: {glob!r} covers no target tensor{near_globs(glob, work.target)}")
        return
    try:
        adapters = parse(settings)
    except Misfit as error:
        work.faults.append(f"donor.adapt: {glob}: {error}")
        return
    doubled = [name for name in names if name in work.adapters]
    if doubled and not automatic:
        work.faults.append(
            f"donor.adapt: {doubled[0]} is covered by {globs[doubled[0]]!r} and by {glob!r}; try globs that do "
            "not overlap, or one glob with a list of adapters"
        )
    for name in names:
        if not (automatic and name in work.adapters):
            work.adapters[name], globs[name] = adapters, glob


def _initialise(work: Pairing, name: str, adapters: tuple[Adapter, ...]) -> None:
    glob = work.globs.get(name) or work.automatic[name]
    try:
        chain = fit(adapters, work.target[name].shape, work.site(name))
    except Misfit as error:
        work.faults.append(f"donor.adapt: {glob}: {error}")
        return
    work.own_values[name] = (chain.formula if chain else "", f"adapt: {glob}", chain)


def pair(work: Pairing) -> Landing:
    """Finds a source for every target that is not set aside. Returns where each donor name is mapped to."""
    donor_names, target_names, landing = _choose_level(work, _renames(work))
    word = "table" if work.rules.match == "table" else "rename"
    work.faults += [f"donor.{word}: '{rule}' changes no donor name{advice}" for rule, advice in landing.idle.items()]
    if work.rules.match in ("name", "auto"):
        _translate(work, landing)
    _ignore(work, donor_names, landing)
    if work.rules.match == "structure":
        _pair_by_structure(work)
    else:
        _pair_by_name(work, landing, target_names, donor_names.taken_off or target_names.taken_off)
    return landing


def _renames(work: Pairing) -> Sequence[Rename] | Mapping[str, str]:
    """The renames for this way of matching. Renames that it does not use are a fault."""
    rules = work.rules
    renames = rules.rename if isinstance(rules.rename, Mapping) else parse_renames(rules.rename)
    by_name = rules.match in ("name", "auto")
    if renames and not by_name:
        work.faults.append(f"donor.rename: has no effect with match={rules.match}; try match=name or no rename")
    if rules.table and rules.match != "table":
        work.faults.append(f"donor.table: has no effect with match={rules.match}; try match=table")
    if rules.match != "table":
        if not by_name:
            return []
        return (
            renames if isinstance(renames, Mapping) else [*renames, *parse_renames(rules.auto_rename, automatic=True)]
        )
    if not rules.table:
        work.faults.append("donor.table: expected {donor name: target name} with match=table, received none")
    for source, target in rules.table.items():
        if target not in work.target:
            near = ", ".join(nearest(target, work.target)) or "a target name in full"
            work.faults.append(f"donor.table: {source} expects a target {target!r} that there is not; try {near}")
    return rules.table


def _choose_level(work: Pairing, renames: Sequence[Rename] | Mapping[str, str]) -> tuple[Stripped, Stripped, Landing]:
    """The number of wrapper prefixes to remove on each side: the fewest that match the most targets."""
    donor_levels, target_levels = strippings(work.donor, work.wrappers), strippings(work.target)
    best, chosen = 0, None
    landings = [(level, land(level, renames)) for level in donor_levels]
    for target_level in target_levels:
        wanted = set(target_level.names.values())
        for donor_level, landing in landings:
            explained = len(wanted & set(landing.names.values()))
            if explained > best:
                best, chosen = explained, (donor_level, target_level, landing)
    if chosen is None:
        donor_level = common(donor_levels)
        chosen = (donor_level, target_levels[0], land(donor_level, renames))
    for level, whose in ((chosen[0], "donor"), (chosen[1], "target")):
        if level.taken_off:
            work.remarks.append(f"{level.remark} {whose} names")
    return chosen


def _translate(work: Pairing, landing: Landing) -> None:
    """Maps names in another library's spelling to the target's, with the adapters that this requires."""
    full = {place: name for name, place in landing.names.items()}
    if full.keys() <= work.target.keys():
        return
    translation = translate({place: work.donor[name] for place, name in full.items()}, work.target)
    if translation is None:
        return
    for place, target in translation.names.items():
        earlier = landing.rules.get(full[place])
        landing.names[full[place]] = target
        landing.rules[full[place]] = f"{earlier}, then {translation.rule}" if earlier else translation.rule
    for place, reason in translation.idle.items():
        work.excused[full[place]] = reason
    for target, settings in translation.adapters.items():
        if target not in work.globs and target not in work.own_values:
            work.adapters[target] = (*parse(settings), *work.adapters.get(target, ()))
    work.remarks.append(f"recognised by its names: {translation.rule}")


def _ignore(work: Pairing, names: Stripped, landing: Landing) -> None:
    """Excuses donor tensors by name, and also by target name if the rule comes from the caller (a new head)."""
    ignore, automatic = Globs(work.rules.ignore, {}, "ignore"), Globs((), work.rules.auto_ignore, "ignore")
    for full, stripped in names.names.items():
        reason = ignore.reason(full, stripped) or automatic.reason(full, stripped, landing.names[full])
        if reason is not None:
            work.excused[full] = reason
    work.faults += [
        f"donor.ignore: {glob!r} covers no donor tensor{near_globs(glob, work.donor)}" for glob in ignore.idle
    ]


def _pair_by_name(work: Pairing, landing: Landing, target_names: Stripped, wrapper: str) -> None:
    arrivals: dict[str, list[str]] = defaultdict(list)
    for full, name in landing.names.items():
        tabled = work.rules.match != "table" or full in landing.rules
        if full not in work.excused and tabled:
            arrivals[name].append(full)
    full_target = {stripped: full for full, stripped in target_names.names.items()}
    for name, sources in arrivals.items():
        target = name if name in work.target else full_target.get(name)
        if target is None or target in work.own_values:
            continue
        _combine(work, target, sources, landing)
        if target in work.pairs:
            continue
        if len(sources) > 1:
            work.faults.append(
                f"{target}: expected one donor tensor, received {len(sources)} ({', '.join(sources[:4])}); try "
                "donor.ignore for the others, a narrower donor.rename, or the adapter join for separate query, key "
                "and value"
            )
        rule = landing.rules.get(sources[0], "")
        work.pairs[target] = Pair((sources[0],), rule or ("" if sources[0] == target else wrapper))


def _combine(work: Pairing, target: str, sources: Sequence[str], landing: Landing) -> None:
    """Pairs a target with the donor tensors that its adapter combines."""
    adapters = work.adapters.get(target, ())
    if not adapters or not isinstance(adapters[0], Combining):
        return
    first = adapters[0]
    full = {place: name for name, place in landing.names.items()} | {name: name for name in landing.names}
    missing = [name for name in first.further if name not in full]
    try:
        if missing:
            raise Misfit(f"{first.name}: expected a donor tensor {missing[0]}, received none of that name")
        combined = [*first.in_order(sources), *(full[name] for name in first.further)]
    except Misfit as error:
        work.faults.append(f"{target}: {error}; try other donor names, or donor.adapt without {first.name}")
        combined = list(sources)
    if len(combined) > 1:
        work.pairs[target] = Pair(tuple(combined), landing.rules.get(combined[0], ""))


def infos_in_order(work: Pairing) -> tuple[Infos, Infos]:
    """The tensors that match=structure pairs by position: donor tensors that are not excused, targets to be filled."""
    sources = [name for name in work.donor if name not in work.excused]
    targets = [name for name in work.target if name not in work.own_values and name not in work.ties]
    if any(map(is_counter, sources)) != any(map(is_counter, targets)):
        sources, targets = ([name for name in names if not is_counter(name)] for names in (sources, targets))
    return {name: work.donor[name] for name in sources}, {name: work.target[name] for name in targets}


def _pair_by_structure(work: Pairing) -> None:
    """Pairs by position. All shapes must be equal, and a bias never fills a weight."""
    sources, targets = infos_in_order(work)
    if len(sources) != len(targets):
        work.faults.append(
            "match=structure: expected as many donor tensors as target tensors, "
            f"received {len(sources)} and {len(targets)}; try donor.skip and donor.ignore for what has no partner"
        )
        return
    for position, (source, target) in enumerate(zip(sources, targets, strict=True)):
        if disagreement(sources[source], targets[target], source, target):
            work.faults.append(
                f"match=structure: position {position} expected {target} {targets[target].shape}, "
                f"received {source} {sources[source].shape}; try match=name with donor.rename"
            )
            work.pairs.clear()
            return
        work.pairs[target] = Pair((source,), f"structure: position {position}")


def follow_ties(work: Pairing) -> None:
    """Fills a tensor that shares its memory with a filled one. Two different verdicts for one memory are a fault."""
    for alias, first in work.ties.items():
        if alias not in work.pairs and alias not in work.own_values and first in work.pairs:
            work.pairs[alias] = replace(work.pairs[first], tied_to=first)
        elif first not in work.pairs and first not in work.own_values and alias in work.pairs:
            work.pairs[first] = work.pairs[alias]
        if (alias in work.own_values) != (first in work.own_values) and {
            alias,
            first,
        } <= work.pairs.keys() | work.own_values.keys():
            work.faults.append(
                f"{alias} and {first} share their memory; try donor.skip or donor.adapt for both or neither"
            )


def near_globs(glob: str, names: Infos) -> str:
    """`; try …`: the glob that was probably meant, or names and module prefixes that resemble it."""
    modules = {f"{name.rpartition('.')[0]}.*" for name in names if "." in name}
    tops = {f"{name.partition('.')[0]}.*" for name in names if "." in name}
    wanted = glob if "*" in glob else f"{glob}.*"
    near = [wanted] if wanted in modules | tops else nearest(glob, [*names, *modules, *tops])
    return f"; try {instead_of_glob(glob, names) or ', '.join(near or list(names)[:3])}"
