"""Groups of images (of one patient, plate or camera), by a column of the table or by their paths."""

from __future__ import annotations

import re
from collections.abc import Sequence

from graft.config.faults import Fault, nearest
from graft.config.patterns import instead_of_regex
from graft.data.table import ListedImage, Listing

KEY = "data.group"
NAME = "group"
"""The capture group of the regular expression that is used, if there is one of that name."""
SHOWN = 3


def assign_groups(listing: Listing, key: str | None) -> list[Fault]:
    """Sets each entry's group by a regular expression. Groups from a column are already set by the listing.

    Args:
        key: data.group: the name of a column, or else a regular expression that is searched for in each image's name
            (its path in the folder or in the table). The group is the capture group `group`, or the first one, or the
            whole match.

    Returns:
        The fault of an invalid expression, or of images without a group, if any.
    """
    if key is None or key in listing.columns or not listing.entries:
        return []
    try:
        pattern = re.compile(key)
    except re.error as error:
        return [Fault(key=KEY, expected=_expected(listing), received=f"{key} ({error})", remedy=_column(key, listing))]
    for entry in listing.entries:
        entry.group = _group(pattern, entry.name)
    missed = [entry for entry in listing.entries if not entry.group]
    if not missed:
        return []
    number, of = len(missed), len(listing.entries)
    where = f"any of {of:,} paths" if number == of else f"{number:,} of {of:,} paths"
    received = f"{key}, which {'is no column and ' if listing.columns else ''}gives none in {where}"
    remedy = _column(key, listing) or instead_of_regex(key, lambda other: _fits(other, missed))
    return [Fault(key=KEY, expected=_expected(listing), received=f"{received} ({_first(missed)})", remedy=remedy)]


def _group(pattern: re.Pattern[str], name: str) -> str:
    match = pattern.search(name)
    if match is None:
        return ""
    return match.group(NAME if NAME in pattern.groupindex else min(pattern.groups, 1)) or ""


def _fits(pattern: str, entries: Sequence[ListedImage]) -> bool:
    return all(_group(re.compile(pattern), entry.name) for entry in entries)


def _expected(listing: Listing) -> str:
    pattern = "a regular expression that finds a group in the path of every image"
    return f"a column ({', '.join(listing.columns)}) or {pattern}" if listing.columns else pattern


def _column(key: str, listing: Listing) -> str:
    return "".join(f"{KEY}={name}" for name in nearest(key, listing.columns, 1))


def _first(entries: Sequence[ListedImage]) -> str:
    return ", ".join([*(entry.name for entry in entries[:SHOWN]), *(["…"] if len(entries) > SHOWN else [])])
