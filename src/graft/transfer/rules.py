"""The rules that map a donor's tensors to their targets, as given by a user or a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graft.config.schema import DonorConfig

MATCHES = ("name", "structure", "table", "auto")
OWN_HEAD = "the donor's own head"


@dataclass(slots=True, kw_only=True)
class Rules:
    """All rules for `account`. Globs and renames without effect are errors, except automatic ones."""

    match: str = "name"
    """name; structure (same count, order and shapes); table; auto (suggests rules and stops)."""
    rename: Sequence[Sequence[str]] | Mapping[str, str] = ()
    """Ordered (pattern, replacement) pairs, or {donor name: target name}."""
    table: Mapping[str, str] = field(default_factory=dict[str, str])
    """With match=table: {donor name: target name}, in full."""
    skip: Sequence[str] | Mapping[str, str] = ()
    """Globs of target names left as they are; a mapping gives each its reason."""
    ignore: Sequence[str] | Mapping[str, str] = ()
    """Globs of donor names left unused; a mapping gives each its reason."""
    adapt: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Glob of target names to an adapter, {name: …, options}, or a list of these applied in order."""
    dtype: str | None = None
    """cast: take another floating-point precision and say so. None: dtypes must be equal."""
    seed: int = 0
    without_donor: bool = False
    """donor=none: that nothing is used is what was asked for; of any other donor it is an error."""
    new_head: bool = False
    """The network's last layer is new, so whatever a donor has behind its trunk needs no place."""
    auto_rename: Sequence[Sequence[str]] = ()
    """The backbone's own renames. The user's come first: they lead to the names that these expect."""
    auto_skip: Mapping[str, str] = field(default_factory=dict[str, str])
    """Glob to reason, from the caller rather than the user: a new head."""
    auto_ignore: Mapping[str, str] = field(default_factory=dict[str, str])
    auto_adapt: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Adapters that follow from the data; they act where shapes differ, and the user's own rule for a tensor wins."""


def rules_of(
    donor: DonorConfig,
    *,
    seed: int = 0,
    new_head: bool = False,
    auto_rename: Sequence[Sequence[str]] = (),
    auto_skip: Mapping[str, str] | None = None,
    auto_ignore: Mapping[str, str] | None = None,
    auto_adapt: Mapping[str, Any] | None = None,
) -> Rules:
    """The rules from the config's donor group and from the caller's knowledge of backbone and head.

    Args:
        new_head: whether the network's last layer is new.
        auto_rename: the backbone's own renames (`backbone.published.rename`), applied after the user's.
        auto_skip: reasons by target glob, such as {"fc.*": "new head"}.
        auto_ignore: reasons by donor glob.
        auto_adapt: adapters that follow from the data (channels, image size, classes); a user's rule takes precedence.
    """
    return Rules(
        match=donor.match,
        rename=donor.rename,
        table=donor.table,
        skip=donor.skip,
        ignore=donor.ignore,
        adapt=donor.adapt,
        dtype="cast" if donor.cast else None,
        seed=seed,
        new_head=new_head,
        auto_rename=auto_rename,
        auto_skip=auto_skip or {},
        auto_ignore=auto_ignore or {},
        auto_adapt=auto_adapt or {},
    )
