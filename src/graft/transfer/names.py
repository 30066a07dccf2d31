"""Donor names on their way to target names: wrapper prefixes off, then renames in order. Pure functions of names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Any

from graft.transfer.ledger import TransferError

WRAPPERS = ("module.", "_orig_mod.", "model.", "network.")


@dataclass(frozen=True, slots=True)
class Stripped:
    """Names with a chain of wrapper prefixes taken off their front."""

    prefix: str
    names: Mapping[str, str]
    """Full name to what is left of it."""

    @property
    def remark(self) -> str:
        carried = sum(full != rest for full, rest in self.names.items())
        extent = "all" if carried == len(self.names) else f"{carried} of {len(self.names)}"
        return f'prefix "{self.prefix}" stripped from {extent}'


def strippings(names: Collection[str]) -> list[Stripped]:
    """Every depth to which wrapper prefixes can be taken off, none first, the fixpoint last."""
    return list(_strippings(names))


def _strippings(names: Collection[str]) -> Iterator[Stripped]:
    prefix, current = "", {name: name for name in names}
    yield Stripped(prefix, current)
    while any(name.startswith(WRAPPERS) for name in current.values()):
        carried = {wrapper: sum(_carries(name, wrapper) for name in current.values()) for wrapper in WRAPPERS}
        wrapper = max(WRAPPERS, key=lambda each: carried[each])
        if not carried[wrapper]:
            return
        current = {full: name[len(wrapper) :] if _carries(name, wrapper) else name for full, name in current.items()}
        if len(set(current.values())) < len(current):
            return  # two names would become one
        prefix += wrapper
        yield Stripped(prefix, current)


def _carries(name: str, wrapper: str) -> bool:
    return name.startswith(wrapper) and len(name) > len(wrapper)


def common(levels: Sequence[Stripped]) -> Stripped:
    """The deepest level at which every name still carried the prefix."""
    deepest = levels[0]
    for level in levels[1:]:
        if any(level.names[name] == rest for name, rest in deepest.names.items()):
            break
        deepest = level
    return deepest


@dataclass(slots=True)
class Landing:
    """Where each donor name lands, and what took it there."""

    names: dict[str, str]
    """Donor's full name to the name it lands on."""
    rules: dict[str, str] = field(default_factory=dict)
    """Donor's full name to the renames that changed it, for the ledger."""
    idle: list[str] = field(default_factory=list)
    """Renames that changed no name."""


@dataclass(frozen=True, slots=True)
class Rename:
    """One ordered substitution. A `*` in the replacement makes both sides globs: `block1.* -> encoder.block1.*`."""

    written: str
    pattern: re.Pattern[str]
    replacement: str

    def __call__(self, name: str) -> str:
        return self.pattern.sub(self.replacement, name)


def parse_renames(pairs: Sequence[Any]) -> list[Rename]:
    """Raises:
    TransferError: A pair that is no pair, or a pattern that is no regular expression."""
    return [_parse_rename(pair) for pair in pairs]


def _parse_rename(pair: Any) -> Rename:
    if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
        raise TransferError(f"donor.rename: expected [pattern, replacement], received {pair!r}")
    pattern, replacement = pair
    written = f"{pattern} -> {replacement}"
    if "*" in replacement:  # no tensor's name holds a star, so this cannot be meant as a regular expression's result
        pattern, replacement = _glob_pair(pattern, replacement)
    try:
        compiled = re.compile(pattern)
        compiled.sub(replacement, "")  # parses the replacement, so that a bad group shows here
    except (re.error, IndexError) as error:
        raise TransferError(f"donor.rename: {written!r} is not a regular expression rule: {error}") from error
    return Rename(written, compiled, replacement)


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
    """Applies the renames to stripped names; a mapping is exact, by full or stripped donor name."""
    if isinstance(renames, Mapping):
        return _land_exactly(stripped, renames)
    landing = Landing(dict(stripped.names))
    for rename in renames:
        changed = {full: new for full, name in landing.names.items() if (new := rename(name)) != name}
        for full in changed:
            earlier = landing.rules.get(full)
            landing.rules[full] = f"{earlier}, then {rename.written}" if earlier else f"rename {rename.written}"
        landing.names.update(changed)
        if not changed:
            landing.idle.append(rename.written)
    return landing


def _land_exactly(stripped: Stripped, renames: Mapping[str, str]) -> Landing:
    landing = Landing({})
    for full, name in stripped.names.items():
        key = full if full in renames else name
        landing.names[full] = renames.get(key, name)
        if key in renames:
            landing.rules[full] = f"rename {key} -> {renames[key]}"
    known = {*stripped.names, *stripped.names.values()}
    landing.idle = [f"{name} -> {renames[name]}" for name in renames if name not in known]
    return landing


class Globs:
    """Patterns of names, each with a reason; the first that fits decides. Those marked automatic may fit nothing."""

    def __init__(self, given: Sequence[str] | Mapping[str, str], automatic: Mapping[str, str], word: str) -> None:
        if isinstance(given, str):
            raise TransferError(f"donor.{word}: expected a list of globs, received the text {given!r}; try [{given!r}]")
        reasons = dict(given) if isinstance(given, Mapping) else {glob: f"{word}: {glob}" for glob in given}
        self._given = list(reasons)
        self._reasons = {**automatic, **reasons}
        self._compiled = {glob: re.compile(translate(glob)) for glob in self._reasons}
        self._hits: set[str] = set()

    def reason(self, *names: str) -> str | None:
        """Why one of these names for one tensor is covered; None when it is not."""
        if not self._compiled:
            return None
        hits = [glob for glob, regex in self._compiled.items() if any(regex.match(name) for name in names)]
        self._hits.update(hits)
        return self._reasons[hits[0]] if hits else None

    @property
    def idle(self) -> list[str]:
        """Given globs that have covered nothing so far."""
        return [glob for glob in self._given if glob not in self._hits]
