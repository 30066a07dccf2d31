"""The account of a transfer: one verdict for each target tensor, one status for each donor tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Any

from graft.config.faults import InputError
from graft.config.schema import PreprocessConfig
from graft.page.terminal import aligned

if TYPE_CHECKING:
    from graft.transfer.adapt import Chain


class TransferError(InputError):
    """The donor does not account for the target; nothing was written.

    >>> from graft import transfer
    >>> from torch import nn
    >>> try:
    ...     transfer(nn.Linear(4, 2), nn.Linear(4, 2, bias=False))
    ... except TransferError as error:
    ...     print(error.unfilled, error.unused)
    () ('bias',)

    Attributes:
        unfilled: Target names that nothing fills.
        unused: Donor names that nothing uses.
    """

    def __init__(self, message: str, *, unfilled: Sequence[str] = (), unused: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.unfilled = tuple(unfilled)
        self.unused = tuple(unused)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The metadata of a tensor."""

    shape: tuple[int, ...]
    dtype: str
    """torch's name of the dtype without `torch.`: float32, bfloat16, int64."""
    buffer: bool = False
    """Whether it is persistent state rather than a parameter (running statistics)."""
    transposed: bool = False
    """Whether output channels are on axis 1, as in ConvTranspose."""
    epsilon: float | None = None
    """Epsilon of the norm, if known: given with a batch norm's running_var, or a layer norm's weight."""
    settings: tuple[tuple[str, str], ...] = ()
    """Settings of the live layer of this tensor: stride, padding, momentum …"""

    @property
    def is_floating(self) -> bool:
        """Whether it can hold learned values. Integer and boolean tensors (counters, tables) are created with the
        layer."""
        return self.dtype.startswith(("float", "bfloat", "complex"))


class Verdict(Enum):
    copied = "copied"
    """The donor's tensor with the same name, unchanged."""
    renamed = "renamed"
    """A donor tensor with another name, unchanged."""
    adapted = "adapted"
    """A donor tensor changed by the formula in `rule`."""
    initialized = "initialized"
    """No donor tensor; `reason` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What happens to one target tensor."""

    target: str
    verdict: Verdict
    info: TensorInfo
    sources: tuple[str, ...] = ()
    """The donor's own names for it, including wrapper prefixes: one, or all those that the rule combines."""
    rule: str = ""
    """Why this source: the rename, the pairing, the adapter's formula."""
    reason: str = ""
    """Why there is no source, or what an adapter preserves or changes."""
    chain: Chain | None = None
    """The adapters that compute the value, for `inject`."""
    cast: bool = False
    tied_to: str | None = None
    """The target tensor with which it shares memory."""

    @property
    def source(self) -> str | None:
        """All of `sources`, joined by ` + `."""
        return " + ".join(self.sources) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class DonorEntry:
    """What becomes of one donor tensor."""

    source: str
    used: bool
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class Ledger:
    """The account of a transfer: every target tensor with its verdict, every donor tensor with its status.

    `print(ledger)` shows a table, `ledger.summary` has the counts, and `ledger.to_dict()` is transfer.json's form.

    >>> from graft import transfer
    >>> from torch import nn
    >>> ledger = transfer(nn.Linear(4, 2), nn.Linear(4, 2))
    >>> ledger.summary["copied"], ledger.summary["parameters_transferred_fraction"]
    (2, 1.0)
    >>> [(entry.target, entry.verdict.value) for entry in ledger.tensors]
    [('weight', 'copied'), ('bias', 'copied')]
    """

    tensors: list[Entry]
    donor_tensors: list[DonorEntry]
    remarks: list[str] = field(default_factory=list)
    source: str = ""
    format: str = ""
    fingerprint: str | Callable[[], str] | None = None
    """The donor's SHA-256, or a function that computes it on demand."""
    seed: int = 0
    """Seed of newly initialised values, combined with each tensor's name."""
    preprocess: PreprocessConfig | None = None
    """The donor's preprocessing, as far as the donor contains it."""
    verified: Mapping[str, Any] | None = None
    """With donor.verify: the probe, the largest difference from the donor's own model, and the tolerance."""

    @property
    def sha256(self) -> str | None:
        return self.fingerprint() if callable(self.fingerprint) else self.fingerprint

    @property
    def donor(self) -> dict[str, Any]:
        proof = {} if self.verified is None else {"verified": dict(self.verified)}
        return {"source": self.source, "sha256": self.sha256, "format": self.format, **proof}

    @property
    def by_target(self) -> dict[str, Entry]:
        return {entry.target: entry for entry in self.tensors}

    @property
    def filled(self) -> frozenset[str]:
        """Names of the target tensors whose values come from the donor, including adapted ones."""
        return frozenset(entry.target for entry in self.tensors if entry.sources)

    @property
    def summary(self) -> dict[str, Any]:
        """Counts by verdict and status, and the fraction of the target's parameters that came from the donor."""
        verdicts = Counter(entry.verdict for entry in self.tensors)
        used = sum(entry.used for entry in self.donor_tensors)
        return {
            **{verdict.value: verdicts[verdict] for verdict in Verdict},
            "used": used,
            "excused": len(self.donor_tensors) - used,
            "parameters_transferred_fraction": self._fraction(),
        }

    def _fraction(self) -> float:
        parameters = [entry for entry in self.tensors if not entry.info.buffer and entry.tied_to is None]
        total = sum(prod(entry.info.shape) for entry in parameters)
        filled = sum(prod(entry.info.shape) for entry in parameters if entry.sources)
        return filled / total if total else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The ledger in the form of transfer.json: strings, numbers, lists and dictionaries."""
        return {
            "donor": self.donor,
            "summary": self.summary,
            "remarks": list(self.remarks),
            "tensors": [
                {
                    "target": entry.target,
                    "verdict": entry.verdict.value,
                    "source": entry.source,
                    "sources": list(entry.sources),
                    "rule": entry.rule,
                    "shape": list(entry.info.shape),
                    "dtype": entry.info.dtype,
                    "reason": entry.reason,
                }
                for entry in self.tensors
            ],
            "donor_tensors": [
                {"source": entry.source, "status": "used" if entry.used else "excused", "reason": entry.reason}
                for entry in self.donor_tensors
            ],
        }

    @property
    def headline(self) -> str:
        """One line: the counts and the fraction."""
        counts = self.summary
        parts = [f"{counts[verdict.value]} {verdict.value}" for verdict in Verdict if counts[verdict.value]]
        return (
            f"{self.source or 'donor'} ({self.format or 'unknown format'}): {', '.join(parts) or 'no tensors'}; "
            f"{counts['used']} donor tensors used, {counts['excused']} excused; "
            f"{_percent(counts['parameters_transferred_fraction'])} of the parameters transferred"
        )

    def __str__(self) -> str:
        header = ("target", "verdict", "shape", "source", "rule and reason")
        rows = [
            (
                entry.target,
                entry.verdict.value,
                "×".join(map(str, entry.info.shape)) or "scalar",
                entry.source or "-",
                "; ".join(filter(None, (entry.rule, entry.reason))),
            )
            for entry in self.tensors
        ]
        excused = [f"excused: {entry.source} ({entry.reason})" for entry in self.donor_tensors if not entry.used]
        return "\n".join([self.headline, *self.remarks, *aligned([header, *rows]), *excused])


def _percent(fraction: float) -> str:
    """A rounded percentage that is 100 % only for everything and 0 % only for nothing."""
    return f"{min(max(fraction, 0.001), 0.999) if 0 < fraction < 1 else fraction:.1%}"
