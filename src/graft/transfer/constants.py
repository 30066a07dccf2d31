"""Tensors without learned values: batch counters, and indices that a layer computes from its own size."""

from __future__ import annotations

from graft.models.stages import COUNTER, beside, is_counter
from graft.transfer.ledger import TensorInfo
from graft.transfer.pairing import Pairing

_MEAN = "running_mean"
_NO_PART = "the counter plays no part in the function"
_INDEX, _TABLE = "relative_position_index", "relative_position_bias_table"
_COUNTED = "an index that the layer counts from its window's size, which its table has too"


def keep_constants(work: Pairing) -> None:
    """Accounts for constants that one side lacks, or that the two sides store in different forms."""
    _keep_counters(work)
    _keep_indices(work)


def _keep_counters(work: Pairing) -> None:
    """Accounts for batch counters that one side lacks, or that the two sides store in different forms.

    They do not affect the function, so they are never a reason to refuse if their layer's statistics are filled. A file
    older than PyTorch 0.4.1 has none, a file cast to half precision has them as floats, and a network with frozen batch
    norms does not keep them.
    """
    targets = {pair.source: name for name, pair in work.pairs.items()}
    for name in filter(is_counter, work.target):
        pair, layer = work.pairs.get(name), work.pairs.get(beside(name, _MEAN))
        if pair is not None and name not in work.adapters and _differs(work.donor[pair.source], work.target[name]):
            source = work.donor[pair.source]
            reason = f"the donor's counter is {source.dtype} {source.shape}; {_NO_PART}"
            work.own_values[name], work.excused[pair.source] = ("", reason, None), reason
            del work.pairs[name]
        elif pair is None and name not in work.own_values and layer and beside(layer.source, COUNTER) not in work.donor:
            work.own_values[name] = ("", f"the donor counts no batches; {_NO_PART}", None)
    for name in filter(is_counter, work.donor):
        layer = targets.get(beside(name, _MEAN))
        if name not in targets and layer is not None and beside(layer, COUNTER) not in work.target:
            work.excused.setdefault(name, f"the network counts no batches; {_NO_PART}")


def _differs(source: TensorInfo, target: TensorInfo) -> bool:
    return (source.dtype, source.shape) != (target.dtype, target.shape)


def _keep_indices(work: Pairing) -> None:
    """Accounts for Swin's relative position indices: equal tables mean equal windows, and therefore equal indices."""
    used = {name for pair in work.pairs.values() for name in pair.sources}
    for name in work.target:
        if _is_index(name) and name not in work.pairs and beside(name, _TABLE) in work.pairs:
            work.own_values.setdefault(name, ("", _COUNTED, None))
    for name in work.donor:
        if _is_index(name) and name not in used and beside(name, _TABLE) in used:
            work.excused.setdefault(name, _COUNTED)


def _is_index(name: str) -> bool:
    return name.rpartition(".")[2] == _INDEX
