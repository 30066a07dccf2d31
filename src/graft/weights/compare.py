"""Compares two donors: which names each side has, and by how much each tensor differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graft.models.stages import COUNTER, declared_stages
from graft.results.drift import Change, StageDrift, stage_drift, tensor_change
from graft.results.run_forms import LEDGER as FORM
from graft.system.documents import read_json
from graft.system.forms import fields
from graft.transfer import Donor
from graft.transfer.donors.folder import record_of
from graft.transfer.names import strippings

STATISTICS = ("running_mean", "running_var", COUNTER)
"""Left out of the stages' figures, because their scale would dominate that of the weights."""
LEDGER = "transfer.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A tensor that both sides have."""

    name: str
    """Its name on the second side."""
    first_name: str
    stage: str
    shape: tuple[int, ...]
    change: float | None
    """|second - first| / |first|; None if the two cannot be compared."""
    cosine: float | None
    note: str = ""
    """Why the two cannot be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The comparison of two donors. `graft diff --json` prints `to_dict()`."""

    first: dict[str, Any]
    """source, format, sha256."""
    second: dict[str, Any]
    remarks: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    tensors: tuple[Difference, ...]
    stages: tuple[StageDrift, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Pairs:
    names: Mapping[str, tuple[str, str]]
    """The second side's name to the first side's name and the network's own name."""
    remarks: tuple[str, ...]


def compare(first: Donor, second: Donor) -> Comparison:
    """Compares two donors, with one tensor of each in memory at a time.

    Raises:
        InputError: a tensor cannot be read, or a run's files are damaged.
    """
    pairs, stage_of = _paired(first, second), _stages(first, second)
    rows: list[Difference] = []
    changes: dict[str, dict[str, Change]] = {}
    for name, (other, bare) in pairs.names.items():
        change, row = _difference(first, other, second, name, stage_of(bare))
        rows.append(row)
        if change is not None and not name.endswith(STATISTICS) and second.infos[name].is_floating:
            changes.setdefault(row.stage, {})[name] = change
    matched = {other for other, _ in pairs.names.values()}
    return Comparison(
        first={"source": first.source, "format": first.format, "sha256": first.sha256},
        second={"source": second.source, "format": second.format, "sha256": second.sha256},
        remarks=(*_sided(first, "first"), *_sided(second, "second"), *pairs.remarks),
        only_first=tuple(name for name in first.infos if name not in matched),
        only_second=tuple(name for name in second.infos if name not in pairs.names),
        tensors=tuple(rows),
        stages=tuple(stage_drift(stage, tensors) for stage, tensors in changes.items()),
    )


def _sided(donor: Donor, which: str) -> list[str]:
    return [f"{which}: {remark}" for remark in donor.remarks]


def _difference(first: Donor, other: str, second: Donor, name: str, stage: str) -> tuple[Change | None, Difference]:
    before, after = first.infos[other], second.infos[name]
    change, note = None, ""
    if before.shape != after.shape:
        note = f"another shape: {before.shape} became {after.shape}"
    else:
        change = tensor_change(first.read(other), second.read(name))
        if not math.isfinite(change.start + change.end):
            change, note = None, "not finite"
        elif before.dtype != after.dtype:
            note = f"{before.dtype} became {after.dtype}"
    cosine = change.cosine if change is not None and after.is_floating else None
    return change, Difference(
        name=name,
        first_name=other,
        stage=stage,
        shape=after.shape,
        change=None if change is None else change.relative,
        cosine=cosine,
        note=note,
    )


def _paired(first: Donor, second: Donor) -> _Pairs:
    """The tensors of both sides in pairs.

    If one side is a run and the other its donor, the run's ledger decides. Otherwise equal names make a pair, without
    the prefixes of wrappers.
    """
    for run, donor, order in ((second, first, "second"), (first, second, "first")):
        ledger = _ledger_of(run)
        if ledger is None or ledger["donor"].get("sha256") != donor.sha256:
            continue
        sources = {entry["target"]: entry["source"] for entry in ledger["tensors"] if entry["source"]}
        names = {target: source for target, source in sources.items() if target in run.infos and source in donor.infos}
        remark = (f"names are paired by the ledger: the {order} is a run, the other the donor that it began with",)
        if run is second:
            return _Pairs({target: (source, target) for target, source in names.items()}, remark)
        return _Pairs({source: (target, target) for target, source in names.items()}, remark)
    mine, theirs, remarks = _stripped(first, second)
    return _Pairs({theirs[bare]: (mine[bare], bare) for bare in theirs if bare in mine}, remarks)


def _stripped(first: Donor, second: Donor) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
    """For each side, names without wrapper prefixes to full names.

    Removes as few prefixes as possible, and as many as it takes for most names to match.
    """
    best = max(
        ((mine, theirs) for mine in strippings(first.infos) for theirs in strippings(second.infos)),
        key=lambda pair: len({*pair[0].names.values()} & {*pair[1].names.values()}),
    )
    bare = tuple({short: full for full, short in level.names.items()} for level in best)
    texts = (f"{level.remark} names of the {which}" for level, which in zip(best, ("first", "second"), strict=True))
    remarks = tuple(text for text, level in zip(texts, best, strict=True) if level.prefix)
    return bare[0], bare[1], remarks


def _ledger_of(donor: Donor) -> dict[str, Any] | None:
    """The ledger of a run's folder; None if the donor is no run or the ledger is unusable."""
    path = Path(donor.source) / LEDGER
    try:
        ledger = read_json(path) if path.is_file() else None
    except (OSError, ValueError):
        return None
    needed = ("donor", "tensors")
    return None if fields(dict.fromkeys(needed, lambda _: ""), needed)(ledger) or FORM(ledger) else ledger


def _stages(first: Donor, second: Donor) -> Callable[[str], str]:
    """Maps a tensor's name to its stage: that of a run's model.json, or else the first part of the name."""
    for donor in (second, first):
        record = record_of(Path(donor.source)) or {}
        if isinstance(record.get("stages"), dict) and isinstance(record.get("heads"), list):
            stages = declared_stages(record["stages"], record["heads"])
            return lambda name: stages.stage_of(name) if stages.holds(name) else _first_part(name)
    return _first_part


def _first_part(name: str) -> str:
    return name.partition(".")[0]


def by_stage(rows: Sequence[Difference]) -> dict[str, list[Difference]]:
    grouped: dict[str, list[Difference]] = {}
    for row in rows:
        grouped.setdefault(row.stage, []).append(row)
    return grouped
