"""Groups, of which none may stand in two parts: a figure would measure how well their other images are remembered."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.config.choices import Acceptance
from graft.config.faults import InputError
from graft.data.table import PARTS, Table
from graft.system.files import write_text
from graft.system.processes import is_first
from graft.system.tables import csv_text

FILE = "groups.csv"
SHOWN = 5
GROUPS: Acceptance = "groups"


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The groups of a table; none where data.group is null."""

    key: str | None
    """data.group."""
    images: Mapping[str, Mapping[str, int]]
    """Of each group, the number of images in each part where it stands."""

    @property
    def shared(self) -> tuple[str, ...]:
        """Those that stand in several parts."""
        return tuple(group for group, parts in self.images.items() if len(parts) > 1)

    @property
    def parts(self) -> dict[str, int]:
        """The number of groups in each part."""
        counted = Counter(part for parts in self.images.values() for part in parts)
        return {part: counted[part] for part in PARTS if counted[part]}

    def record(self, accept: Sequence[Acceptance]) -> dict[str, object]:
        """For plan.json and the model's record."""
        return {
            "key": self.key,
            "groups": len(self.images),
            "parts": self.parts,
            "in_two_parts": len(self.shared),
            "accepted": GROUPS in accept,
        }

    def described(self, accept: Sequence[Acceptance]) -> list[str]:
        """For the plan."""
        lines: list[str] = []
        if self.key is not None:
            parts = ", ".join(f"{number:,} {part}" for part, number in self.parts.items())
            lines.append(f"{len(self.images):,} by {self.key}: {parts}")
        if self.shared:
            lines.append(
                f"{len(self.shared):,} in two parts or more, accepted: figures of the later part measure memory too;"
                f" all are listed in {FILE}"
            )
        elif GROUPS in accept:
            why = "each is in one part" if self.key is not None else "data.group is not set"
            lines.append(f"data.accept=[{GROUPS}] has no effect: {why}")
        return lines


def find_groups(table: Table, key: str | None) -> Groups:
    """The groups in the table's order.

    Args:
        key: data.group, by which the table was made.
    """
    counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
    if key is not None:
        for part in PARTS:
            for sample in table.part(part):
                counted[sample.group][part] += 1
    return Groups(key=key, images=counted)


def check_groups(table: Table, key: str | None, accept: Sequence[Acceptance], folder: Path | None = None) -> None:
    """Lists the groups of several parts in the folder's groups.csv, where there are any.

    Raises:
        InputError: there is such a group, and that is not accepted.
    """
    groups = find_groups(table, key)
    if folder is not None and is_first():
        _write(groups, folder / FILE)
    if not groups.shared or GROUPS in accept:
        return
    shown = "; ".join(
        f"{group} ({', '.join(f'{number:,} {part}' for part, number in groups.images[group].items())})"
        for group in groups.shared[:SHOWN]
    )
    more = "; …" if len(groups.shared) > SHOWN else ""
    where = f"all are listed in {folder / FILE}" if folder else "training with mode=plan lists all"
    accepted = ",".join(sorted({*accept, GROUPS}))
    received = f"{len(groups.shared):,} of {len(groups.images):,} in two or more: {shown}{more} ({where})"
    raise InputError(
        f"data.group: expected each group in one part, received {received}; try moving their images into one part,"
        f" letting graft split (without parts in the data), or data.accept=[{accepted}] to go on with them"
    )


def _write(groups: Groups, path: Path) -> None:
    """A row for each group and part where it stands, of groups that stand in several."""
    if not groups.shared:
        path.unlink(missing_ok=True)  # of an earlier command in this folder
        return
    rows = [(group, part, number) for group in groups.shared for part, number in groups.images[group].items()]
    write_text(path, csv_text([("group", "part", "images"), *rows]))
