"""Transfer learning with every tensor accounted for.

`from graft import train, transfer, load` works; torch is imported when one of them is first asked for, so that
config mistakes are answered before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graft.config.faults import InputError as InputError
    from graft.config.faults import RunFailed as RunFailed
    from graft.inference.images import load as load
    from graft.pipeline.session import plan as plan
    from graft.pipeline.session import train as train
    from graft.transfer import Ledger as Ledger
    from graft.transfer import TransferError as TransferError
    from graft.transfer import transfer as transfer

__all__ = ["InputError", "Ledger", "RunFailed", "TransferError", "load", "plan", "train", "transfer"]

_HOMES = {
    "Ledger": "graft.transfer",
    "TransferError": "graft.transfer",
    "transfer": "graft.transfer",
    "load": "graft.inference.images",
    "train": "graft.pipeline.session",
    "plan": "graft.pipeline.session",
    "InputError": "graft.config.faults",
    "RunFailed": "graft.config.faults",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
