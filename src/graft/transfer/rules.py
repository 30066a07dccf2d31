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
    """Globs of target names that keep their values; a mapping gives the reason for each."""
    ignore: Sequence[str] | Mapping[str, str] = ()
    """Globs of donor names that are not used; a mapping gives the reason for each."""
    adapt: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """By glob of target names, an adapter, {name: …, options}, or a list of these applied in order."""
    dtype: str | None = None
    """cast: convert another floating-point type, and record it. None: dtypes must be equal."""
    seed: int = 0
    without_donor: bool = False
    """For donor=none, it is intended that nothing is used; for any other donor it is an error."""
    new_head: bool = False
    """Whether the network's last layer is new, so that tensors after the donor's trunk may stay unused."""
    auto_rename: Sequence[Sequence[str]] = ()
    """The backbone's own renames. The user's are applied first and must lead to the names that these expect."""
    auto_skip: Mapping[str, str] = field(default_factory=dict[str, str])
    """Reasons by glob, from the caller rather than the user: a new head."""
    auto_ignore: Mapping[str, str] = field(default_factory=dict[str, str])
    auto_adapt: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Adapters that follow from the data. They apply only if shapes differ, and the user's rule takes precedence."""


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
