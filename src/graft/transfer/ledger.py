"""The account of a transfer: one verdict for each target tensor, one status for each donor tensor."""

from __future__ import annotations

from dataclasses import dataclass

from graft.config.faults import InputError


class TransferError(InputError):
    """The donor does not account for the target; nothing was written."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What is known of a tensor without its values."""

    shape: tuple[int, ...]
    dtype: str
    """torch's name without the `torch.`: float32, bfloat16, int64."""
    buffer: bool = False
    """Persistent state that is not a parameter (running statistics)."""
    transposed: bool = False
    """Output channels are on axis 1, as in ConvTranspose."""
