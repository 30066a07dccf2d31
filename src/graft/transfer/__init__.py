"""Weight transfer that accounts for every tensor.

`transfer` does all of it for live modules: it accounts for every name, adapts tensors by the given rules, checks the
result and then writes it. The package itself is callable, so `from graft import transfer` works whichever was imported
first.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from graft.transfer.donor import Donor, donor_of_mapping, donor_of_module
from graft.transfer.inject import inject
from graft.transfer.ledger import DonorEntry, Entry, Ledger, TensorInfo, TransferError, Verdict
from graft.transfer.match import account, account_donor
from graft.transfer.rules import Rules, rules_of
from graft.transfer.suggest import Suggestion, suggest_rules
from graft.transfer.target import Target, target_of_module

__all__ = [
    "Donor",
    "DonorEntry",
    "Entry",
    "Ledger",
    "Rules",
    "Suggestion",
    "Target",
    "TensorInfo",
    "TransferError",
    "Verdict",
    "account",
    "account_donor",
    "donor_of_mapping",
    "donor_of_module",
    "inject",
    "rules_of",
    "suggest_rules",
    "target_of_module",
    "transfer",
]


def transfer(
    donor: nn.Module | Mapping[str, Tensor] | str | PathLike[str] | Donor,
    target: nn.Module,
    *,
    match: str = "name",
    rename: Sequence[tuple[str, str]] | Mapping[str, str] = (),
    skip: Sequence[str] | Mapping[str, str] = (),
    ignore: Sequence[str] | Mapping[str, str] = (),
    adapt: Mapping[str, Any] | None = None,
    table: Mapping[str, str] | None = None,
    dtype: str | None = None,
    seed: int = 0,
) -> Ledger:
    """Fills a module's tensors from a donor and accounts for every tensor on both sides, or changes nothing.

    >>> from torch import equal, nn
    >>> donor = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    >>> target = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5))
    >>> ledger = transfer(donor, target, skip=["1.*"], ignore=["1.*"])
    >>> print(ledger)
    Sequential (module): 2 copied, 2 initialized; 2 donor tensors used, 2 excused; 42.9% of the parameters transferred
    target    verdict      shape  source    rule and reason
    0.weight  copied       3×4    0.weight
    0.bias    copied       3      0.bias
    1.weight  initialized  5×3    -         skip: 1.*
    1.bias    initialized  5      -         skip: 1.*
    excused: 1.weight (ignore: 1.*)
    excused: 1.bias (ignore: 1.*)
    >>> equal(target[0].weight, donor[0].weight)
    True

    Args:
        donor: A module (or a layer of one), a mapping of tensors, a file's path, or an open `Donor`.
        target: The module (or layer) that receives. Its tensors keep their identity, device and dtype.
        match: `name`, after wrapper prefixes and `rename`; `structure`: same count, order and shapes; `table`; `auto`:
            suggest rules and change nothing.
        rename: Ordered (pattern, replacement) pairs for `re.sub`, where a `*` in the replacement makes both sides
            globs; or {donor name: target name}.
        skip: Globs of target names left as they are.
        ignore: Globs of donor names excused.
        adapt: Glob of target names to an adapter's name, {name: …, options}, or a list of these applied in order.
        table: {donor name: target name} in full; implies `match="table"`.
        dtype: `cast` takes a donor of another floating-point precision; the ledger says so.
        seed: For fresh values; each tensor's depend on it and on the tensor's name alone.

    Returns:
        The ledger: `str()` is a table, `to_dict()` has transfer.json's form. Its sha256 is the file's; of live tensors,
        which takes longer than the transfer itself, one over their names, dtypes, shapes and values.

    Raises:
        TransferError: A ValueError that lists everything unexplained; the target is untouched.
    """
    rules = Rules(
        match="table" if table is not None and match == "name" else match,
        rename=rename,
        table=table or {},
        skip=skip,
        ignore=ignore,
        adapt=adapt or {},
        dtype=dtype,
        seed=seed,
    )
    with nullcontext(donor) if isinstance(donor, Donor) else _opened(donor) as source:
        source.look_ahead()
        receiver = target_of_module(target)
        ledger = account_donor(source, receiver, rules)
        if ledger.fingerprint is None:
            ledger.fingerprint = source.hash_values()  # now: live values are their owner's, who may change them
        inject(ledger, source, receiver)
    return ledger


def _opened(donor: object) -> Donor:
    match donor:
        case nn.Module():
            return donor_of_module(donor)
        case Mapping():
            return donor_of_mapping(donor)
        case str() | PathLike():
            from graft.transfer.donors import open_donor

            return open_donor(donor if isinstance(donor, str) else Path(donor))
        case _:
            raise TransferError(
                f"donor: expected a module, a mapping of tensors, a path or a Donor, received {type(donor).__name__}"
            )


class _CallablePackage(ModuleType):
    """Makes `graft.transfer` a package to the import system and a function to whoever calls it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Ledger:
        return transfer(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
