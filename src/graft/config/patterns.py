"""What a pattern that fits nothing was meant to be: people write one kind where another is wanted, and shells take
backslashes away."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

Fits = Callable[[str], bool]
"""Whether a pattern fits anything."""

_ONCE = "inside quotes each backslash is written once"
_QUOTES = "outside quotes the shell takes backslashes away"
_GLOB = "a glob, in which * stands for any letters and all else for itself"
_PREFIX = "a prefix, which stands for itself"


def instead_of_regex(pattern: str, fits: Fits) -> str:
    """What to write in place of a regular expression that fits nothing; empty where no other reading fits either."""
    eaten = re.sub(r"(?<![\\\w])([dws])(?=[+*?{)])", r"\\\1", pattern)
    return _first(pattern, fits, [(pattern.replace("\\\\", "\\"), _ONCE), (eaten, _QUOTES)])


def instead_of_glob(glob: str, names: Iterable[str]) -> str:
    """The same for a glob."""
    candidates = list(names)
    return _first(
        glob, lambda reading: any(fnmatchcase(name, reading) for name in candidates), [(_without_regex(glob), _GLOB)]
    )


def instead_of_prefix(prefix: str, fits: Fits) -> str:
    """The same for a name prefix."""
    return _first(prefix, fits, [(re.sub(r"[.*]+$", "", _without_regex(prefix)), _PREFIX)])


def _without_regex(pattern: str) -> str:
    """What a regular expression of names would be as a glob."""
    bare = pattern.removeprefix("^").removesuffix("$").replace("\\\\", "\\")
    return re.sub(r"(?<!\\)\.[*+]", "*", bare).replace("\\", "")


def _first(pattern: str, fits: Fits, readings: Iterable[tuple[str, str]]) -> str:
    for reading, why in readings:
        if reading and reading != pattern and _fits(fits, reading):
            return f"{reading} ({why})"
    return ""


def _fits(fits: Fits, reading: str) -> bool:
    try:
        return fits(reading)
    except re.error:
        return False
