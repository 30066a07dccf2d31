"""From donor names to target names: wrapper prefixes are removed, then renames are applied in order. Pure functions of
names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Any

from graft.config.faults import nearest
from graft.config.patterns import instead_of_regex
from graft.transfer.ledger import TransferError

WRAPPERS = ("module.", "_orig_mod.", "model.", "network.")


INNER = "_orig_mod."
"""torch's own prefix of a compiled module, anywhere in a network."""


@dataclass(frozen=True, slots=True)
class Stripped:
    """Names without a chain of wrapper prefixes."""

    prefix: str
    names: Mapping[str, str]
    """The remaining name by full name."""
    inner: bool = False
    """Whether `_orig_mod.` is also removed from the middle of names."""

    @property
    def taken_off(self) -> str:
        """The removed prefixes in words; empty if there are none."""
        parts = [f'prefix "{self.prefix}"'] * bool(self.prefix) + [f'inner "{INNER}"'] * self.inner
        return f"{' and '.join(parts)} stripped" if parts else ""

    @property
    def remark(self) -> str:
        """The removed prefixes, and from how many names."""
        carried = sum(full != rest for full, rest in self.names.items())
        extent = "all" if carried == len(self.names) else f"{carried} of {len(self.names)}"
        return f"{self.taken_off} from {extent}"


def strippings(names: Collection[str], further: Sequence[str] = ()) -> list[Stripped]:
    """All depths to which wrapper prefixes can be removed: first none, then the front prefixes, then those of inner
    modules.

    Args:
        further: additional prefixes of this donor that count as wrappers.
    """
    levels = [Stripped("", {name: name for name in names})]
    wrappers = (*WRAPPERS, *further)
    while (deeper := _without_front(levels[-1], wrappers)) is not None:
        levels.append(deeper)
    inner = _without_inner(levels[-1])
    return levels if inner is None else [*levels, inner]


def _without_front(level: Stripped, wrappers: tuple[str, ...]) -> Stripped | None:
    """Removes the wrapper prefix that most names have. None if no name has one, or if two names would become equal."""
    wrapped = [name for name in level.names.values() if name.startswith(wrappers)]
    if not wrapped:
        return None
    carried = {wrapper: sum(_carries(name, wrapper) for name in wrapped) for wrapper in wrappers}
    wrapper = max(wrappers, key=lambda each: carried[each])
    names = {full: name[len(wrapper) :] if _carries(name, wrapper) else name for full, name in level.names.items()}
    if not carried[wrapper] or len(set(names.values())) < len(names):
        return None
    return Stripped(level.prefix + wrapper, names)


def _without_inner(level: Stripped) -> Stripped | None:
    inner = f".{INNER}"
    names = {full: name.replace(inner, ".") for full, name in level.names.items()}
    if names == level.names or len(set(names.values())) < len(names):
        return None
    return Stripped(level.prefix, names, inner=True)


def _carries(name: str, wrapper: str) -> bool:
    return name.startswith(wrapper) and len(name) > len(wrapper)


def common(levels: Sequence[Stripped]) -> Stripped:
    """The deepest level at which every name still had the prefix."""
    deepest = levels[0]
    for level in levels[1:]:
        if any(level.names[name] == rest for name, rest in deepest.names.items()):
            break
        deepest = level
    return deepest


@dataclass(slots=True)
class Landing:
    """The name that each donor name is mapped to, and the renames that did it."""

    names: dict[str, str]
    """The target name by the donor's full name."""
    rules: dict[str, str] = field(default_factory=dict)
    """The renames that changed each name, by the donor's full name, for the ledger."""
    idle: dict[str, str] = field(default_factory=dict[str, str])
    """Renames without effect, each with a suggestion."""


@dataclass(frozen=True, slots=True)
class Rename:
    """One ordered substitution. A `*` in the replacement makes both sides globs: `block1.* -> encoder.block1.*`."""

    text: str
    pattern: re.Pattern[str]
    replacement: str
    automatic: bool = False
    """Whether it comes from the backbone rather than the user, and so may have no effect."""

    def __call__(self, name: str) -> str:
        return self.pattern.sub(self.replacement, name)


def parse_renames(pairs: Sequence[Any], *, automatic: bool = False) -> list[Rename]:
    """The renames in the given pairs.

    Raises:
        TransferError: an entry is not a pair, or a pattern is not a regular expression.
    """
    return [_parse_rename(pair, automatic) for pair in pairs]


def _parse_rename(pair: Any, automatic: bool) -> Rename:
    if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
        raise TransferError(f"donor.rename: expected [pattern, replacement], received {pair!r}")
    pattern, replacement = pair
    text = f"{pattern} -> {replacement}"
    if "*" in replacement:  # no tensor's name holds a star, so this cannot be meant as a regular expression's result
        pattern, replacement = _glob_pair(pattern, replacement)
    try:
        compiled = re.compile(pattern)
        compiled.sub(replacement, "")  # parses the replacement, so that a bad group shows here
    except (re.error, IndexError) as error:
        raise TransferError(f"donor.rename: '{text}' is not a regular expression rule: {error}") from error
    return Rename(text, compiled, replacement, automatic)


def _glob_pair(pattern: str, replacement: str) -> tuple[str, str]:
    if pattern.count("*") != replacement.count("*"):
        raise TransferError(
            f"donor.rename: expected as many * in {pattern!r} as in {replacement!r}; try block1.* and encoder.block1.*"
        )
    pieces = replacement.split("*")
    numbered = "".join(piece.replace("\\", r"\\") + f"\\g<{i}>" for i, piece in enumerate(pieces[:-1], start=1))
    regex = "^" + "(.*)".join(re.escape(piece) for piece in pattern.split("*")) + "$"
    return regex, numbered + pieces[-1].replace("\\", r"\\")


def land(stripped: Stripped, renames: Sequence[Rename] | Mapping[str, str]) -> Landing:
    """Applies the renames to stripped names. A mapping is exact, by full or stripped donor name."""
    if isinstance(renames, Mapping):
        return _land_exactly(stripped, renames)
    landing = Landing(dict(stripped.names))
    for rename in renames:
        changed = {full: new for full, name in landing.names.items() if (new := rename(name)) != name}
        for full in changed:
            earlier = landing.rules.get(full)
            landing.rules[full] = f"{earlier}, then {rename.text}" if earlier else f"rename {rename.text}"
        landing.names.update(changed)
        if not changed and not rename.automatic:
            landing.idle[rename.text] = _advice(rename, stripped, landing)
    return landing


def _advice(rename: Rename, stripped: Stripped, landing: Landing) -> str:
    """What to write instead of a rename that has no effect."""
    names = list(landing.names.values())

    def matches(pattern: str | re.Pattern[str], names: Iterable[str]) -> bool:
        return any(re.search(pattern, name) for name in names)

    instead = instead_of_regex(rename.pattern.pattern, lambda pattern: matches(pattern, names))
    if instead:
        return f"; try {instead}"
    if matches(rename.pattern, stripped.names.values()) and not matches(rename.pattern, names):
        return ", as an earlier rule changed those that it fits; try it before that one"
    if matches(rename.pattern, stripped.names):
        return f", as {stripped.taken_off} beforehand; try it without"
    return f"; try a pattern of names such as {', '.join(names[:2])}" if names else ""


def _land_exactly(stripped: Stripped, renames: Mapping[str, str]) -> Landing:
    landing = Landing({})
    for full, name in stripped.names.items():
        key = full if full in renames else name
        landing.names[full] = renames.get(key, name)
        if key in renames:
            landing.rules[full] = f"rename {key} -> {renames[key]}"
    names = {*stripped.names, *stripped.names.values()}
    for name in renames:
        if name not in names:
            near = ", ".join(nearest(name, sorted(names)))
            landing.idle[f"{name} -> {renames[name]}"] = f"; try {near}" if near else ""
    return landing


class Globs:
    """Patterns of names, each with a reason. The first match decides. Automatic patterns may match nothing."""

    def __init__(self, globs: Sequence[str] | Mapping[str, str], automatic: Mapping[str, str], word: str) -> None:
        if isinstance(globs, str):
            raise TransferError(f"donor.{word}: expected a list of globs, received the text {globs!r}; try [{globs!r}]")
        reasons = dict(globs) if isinstance(globs, Mapping) else {glob: f"{word}: {glob}" for glob in globs}
        self._globs = list(reasons)
        self._reasons = {**automatic, **reasons}
        self._compiled = {glob: re.compile(translate(glob)) for glob in self._reasons}
        self._hits: set[str] = set()

    def reason(self, *names: str) -> str | None:
        """The reason why any of these names of one tensor is covered; None if none is."""
        if not self._compiled:
            return None
        hits = [glob for glob, regex in self._compiled.items() if any(regex.match(name) for name in names)]
        self._hits.update(hits)
        return self._reasons[hits[0]] if hits else None

    @property
    def idle(self) -> list[str]:
        """The given globs that have matched nothing so far."""
        return [glob for glob in self._globs if glob not in self._hits]
