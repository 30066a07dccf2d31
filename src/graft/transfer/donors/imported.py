"""A live module as a donor, by import path: `python:package.module:factory`."""

from __future__ import annotations

import importlib

from torch import nn

from graft.config.faults import InputError, nearest
from graft.transfer.donor import Donor, donor_of_module

SCHEME = "python:"
"""What a donor.path begins with to name a factory. It is the user's own code and is run; a file's content never is."""


def open_imported(reference: str) -> Donor:
    """Calls `factory()` of `python:package.module:factory` and takes the weights of the module that it returns.

    Raises:
        InputError: The reference does not lead to an `nn.Module` or to a callable that returns one.
    """
    module_name, _, attribute = reference.removeprefix(SCHEME).partition(":")
    if not module_name or not attribute:
        raise InputError(f"donor.path: expected {SCHEME}package.module:factory, received {reference!r}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"donor.path: expected an importable module, received {module_name!r} ({error}); "
            "try installing it, or PYTHONPATH=its folder"
        ) from error
    if not hasattr(module, attribute):
        close = nearest(attribute, vars(module))
        raise InputError(
            f"donor.path: expected a name in {module_name}, received {attribute!r}"
            + (f"; try {SCHEME}{module_name}:{close[0]}" if close else "")
        )
    found = getattr(module, attribute)
    made = found if isinstance(found, nn.Module) else found() if callable(found) else found
    if not isinstance(made, nn.Module):
        raise InputError(f"donor.path: expected {reference} to give an nn.Module, received {type(made).__name__}")
    donor = donor_of_module(made, source=reference)
    donor.fingerprint = donor.hash_values()
    return donor
