"""Lists a donor's tensors and recognizes the likely network."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from graft.models.architectures import Likeness, recognise
from graft.transfer import Donor
from graft.transfer.donor import count_unsound, is_finite
from graft.transfer.names import common, strippings
from graft.transfer.spellings import joined_shapes, read


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSummary:
    """Name, shape, dtype, size and unsound values of one tensor of a donor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    nan: int
    inf: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The contents of a donor. `graft inspect --json` prints `to_dict()`."""

    source: str
    format: str
    container: str
    prefix: str
    """The prefix that wrappers put before every name."""
    sha256: str | None
    remarks: tuple[str, ...]
    tensors: tuple[TensorSummary, ...]
    architectures: tuple[Likeness, ...]

    @property
    def values(self) -> int:
        return sum(prod(tensor.shape) for tensor in self.tensors)

    @property
    def bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def dtypes(self) -> dict[str, int]:
        """The number of tensors of each dtype, the most frequent first."""
        return dict(Counter(tensor.dtype for tensor in self.tensors).most_common())

    @property
    def nan(self) -> int:
        return sum(tensor.nan for tensor in self.tensors)

    @property
    def inf(self) -> int:
        return sum(tensor.inf for tensor in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        totals = {name: getattr(self, name) for name in ("values", "bytes", "dtypes", "nan", "inf")}
        return asdict(self) | totals


def contents(donor: Donor) -> Contents:
    """Reads every tensor once, with one in memory at a time.

    Raises:
        InputError: a tensor cannot be read.
    """
    stripped = common(strippings(donor.infos, donor.wrappers))
    doubts = [
        f"in a transfer, {doubt.reason}; try {doubt.remedy}" for doubt in donor.doubts if not doubt.settled_by({})
    ]
    shapes = {stripped.names[name]: info.shape for name, info in donor.infos.items()}
    reading = read(shapes)
    spelled = [f"the names are {reading.spelling.owner}, of a {reading.spelling.network}"] if reading else []
    return Contents(
        source=donor.source,
        format=donor.format,
        container=donor.container,
        prefix=stripped.prefix,
        sha256=donor.sha256,
        remarks=(*donor.remarks, *spelled, *doubts),
        tensors=tuple(_summary(donor, name) for name in donor.infos),
        architectures=tuple(recognise(joined_shapes(reading, shapes) if reading else shapes)),
    )


def _summary(donor: Donor, name: str) -> TensorSummary:
    info, value = donor.infos[name], donor.read(name)
    nan, inf = (0, 0) if is_finite(value) else count_unsound(value)
    return TensorSummary(
        name=name, shape=info.shape, dtype=info.dtype, bytes=value.numel() * value.element_size(), nan=nan, inf=inf
    )
