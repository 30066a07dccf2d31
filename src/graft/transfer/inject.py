"""Writes the donor's values into a module, and is the only place that does. Everything is computed and checked before
the first write."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graft.transfer.donor import Donor, check_has_values, count_unsound, dtype_name, is_finite
from graft.transfer.ledger import Entry, Ledger, TransferError
from graft.transfer.target import Target, target_of_module


def inject(ledger: Ledger, donor: Donor, module: nn.Module | Target) -> None:
    """Carries out a ledger: copies values into the module's own tensors, on their device, without autograd history.

    It makes two passes over the donor. The first pass computes and checks every value and drops it, unless it is a view
    of the donor's memory. The second pass writes. If anything is wrong, nothing is written. At most one tensor is in
    memory in addition to what the donor itself holds.

    Raises:
        TransferError: a value is not finite, differs from its metadata, or cannot be written. Nothing was written.
    """
    tensors = (module if isinstance(module, Target) else target_of_module(module)).tensors
    _check_same_donor(ledger, donor)
    _check_same_network(ledger, tensors)
    filled = [entry for entry in ledger.tensors if entry.sources or entry.chain is not None]
    memories = {_memory(tensor) for tensor in tensors.values()}
    donor.look_ahead()
    staged: dict[str, Tensor] = {}
    for entry in filled:
        tensor = tensors[entry.target]
        _check_writable(entry.target, tensor)
        read = [_read(name, donor, check=not donor.runs or entry.chain is not None) for name in entry.sources]
        value = _checked(entry, _result(entry, read, tensor), tensor)
        if any(_memory(each) in memories and each.data_ptr() != tensor.data_ptr() for each in read):
            staged[entry.target] = value.clone()  # another target's write would change what was read
        elif donor.resident and entry.chain is None:
            staged[entry.target] = value
    if donor.runs and not donor.is_finite():
        for name in dict.fromkeys(name for entry in filled for name in entry.sources):
            _check_finite(f"donor {name}", donor.read(name))
    _check_ties(filled, donor, tensors)
    with torch.no_grad():
        for entry in filled:
            if entry.tied_to is None:
                value = staged.get(entry.target)
                tensors[entry.target].copy_(_value(entry, donor, tensors[entry.target]) if value is None else value)


def _result(entry: Entry, read: Sequence[Tensor], tensor: Tensor) -> Tensor:
    """Applies the entry's rule to the donor's values. The result may still share memory with the donor."""
    values = read or [torch.empty(0, dtype=tensor.dtype)]
    return values[0] if entry.chain is None else entry.chain(*values)


def _value(entry: Entry, donor: Donor, tensor: Tensor) -> Tensor:
    return _result(entry, [donor.read(name) for name in entry.sources], tensor)


def _read(name: str, donor: Donor, *, check: bool) -> Tensor:
    """A donor's value, checked against the shape and dtype in its metadata, and for non-finite values.

    Args:
        check: Look for values that are not finite here, rather than beside, in all of the donor at once.
    """
    read, promised = donor.read(name), donor.infos[name]
    if read.shape != promised.shape or dtype_name(read.dtype) != promised.dtype:
        raise TransferError(
            f"donor {name}: expected {promised.shape} {promised.dtype} as its file says, "
            f"received {tuple(read.shape)} {dtype_name(read.dtype)}; try a fresh copy of the file"
        )
    check_has_values(name, read, "donor")
    if check:
        _check_finite(f"donor {name}", read)
    return read


def _checked(entry: Entry, value: Tensor, tensor: Tensor) -> Tensor:
    if value.shape != tensor.shape or (value.dtype != tensor.dtype and not entry.cast):
        raise TransferError(
            f"{entry.target}: expected {tuple(tensor.shape)} {tensor.dtype}, "
            f"received {tuple(value.shape)} {value.dtype}; try an account of this donor and this network"
        )
    if entry.chain is not None or entry.cast:
        _check_finite(f"{entry.target} after {entry.rule or entry.reason}", value.to(tensor.dtype))
    return value


def _check_finite(what: str, value: Tensor) -> None:
    if is_finite(value):
        return
    nans, infinite = count_unsound(value)
    raise TransferError(
        f"{what}: expected finite values, received {nans} NaN and {infinite} infinite of {value.numel()}; "
        "try another copy of the donor, or donor.skip for this tensor"
    )


def _check_same_donor(ledger: Ledger, donor: Donor) -> None:
    """Checks that a live module is still the same. A file's hash is computed when the ledger is written, and a changed
    file is refused then."""
    accounted, opened = ledger.fingerprint, donor.fingerprint
    if isinstance(accounted, str) and isinstance(opened, str) and accounted != opened:
        raise TransferError(
            f"donor {donor.source}: expected the values that were accounted for (sha256 {accounted[:12]}…), received "
            f"others ({opened[:12]}…); try a factory that gives the same module each time it is called"
        )


def _check_same_network(ledger: Ledger, tensors: dict[str, Tensor]) -> None:
    accounted = {entry.target: entry.info.shape for entry in ledger.tensors}
    present = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if accounted != present:
        odd = sorted(name for name in accounted.keys() | present.keys() if accounted.get(name) != present.get(name))
        raise TransferError(
            f"the ledger is of another network: {len(odd)} tensors differ ({', '.join(odd[:4])}); try this one's"
        )


def _check_writable(name: str, tensor: Tensor) -> None:
    check_has_values(name, tensor, "target")
    if tensor.is_inference():
        raise TransferError(
            f"target: {name!r} was made in inference mode and is read-only; try building the target outside it"
        )
    sides = zip(tensor.stride(), tensor.shape, strict=True)
    if not tensor.is_contiguous() and any(stride == 0 and size > 1 for stride, size in sides):
        raise TransferError(
            f"target: {name!r} is an expanded view whose elements share memory; try .contiguous() for it"
        )


def _check_ties(filled: list[Entry], donor: Donor, tensors: dict[str, Tensor]) -> None:
    """Checks that names which share memory receive the same value."""
    firsts = {entry.target: entry for entry in filled}
    for entry in filled:
        first = firsts.get(entry.tied_to or "")
        if first is None or (first.sources == entry.sources and first.rule == entry.rule):
            continue
        values = [_value(each, donor, tensors[each.target]) for each in (first, entry)]
        if not torch.equal(*values):
            raise TransferError(
                f"{entry.target} and {first.target} share their memory in the target but differ in the donor "
                f"({entry.source}, {first.source}); try untying the target, or donor.ignore for one of them"
            )


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
