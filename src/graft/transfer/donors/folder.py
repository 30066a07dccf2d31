"""Donors given by a folder or by a function of the user."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from torch import nn

from graft.config.faults import InputError, nearest
from graft.transfer.donor import Donor, donor_of_module
from graft.transfer.donors.parallel import check_in_one_piece
from graft.transfer.donors.sniff import DAMAGE, first_line, refused

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".keras", ".h5")
_EXPORTED = "model.safetensors"
_RECORD = "model.json"


def file_in(folder: Path) -> tuple[Path, list[str]]:
    """The one file that holds a folder's weights, and what was recognised.

    For a run's folder, this is its exported model, not a checkpoint.

    Raises:
        InputError: the folder has no weights, or several files with weights.
    """
    try:
        run = folder / "model" / _EXPORTED
        if run.is_file():
            return run, [f"the exported model of the run in {folder}"]
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise refused(folder, expected="a readable folder", received=error.strerror or "none") from error
    check_in_one_piece(folder, names)
    indexes = [name for name in names if name.endswith(".index.json")]
    if len(indexes) == 1:
        return folder / indexes[0], [f"the index {indexes[0]} in {folder}"]
    weights = indexes or [name for name in names if name.endswith(_WEIGHTS) and not name.startswith(".")]
    if len(weights) == 1:
        return folder / weights[0], [f"the file {weights[0]} in {folder}"]
    if not weights:
        run_without_model = (folder / ".hydra").is_dir() or (folder / "checkpoints").is_dir()
        raise refused(
            folder,
            expected=f"a folder with model/{_EXPORTED} (a run's) or one file of weights",
            received="a run's folder without its exported model" if run_without_model else _listing(names),
            remedy=f"{folder}/checkpoints/best.ckpt" if run_without_model else "the weights file itself",
        )
    raise refused(
        folder,
        expected="one file of weights",
        received=", ".join(weights[:8]) + (f" and {len(weights) - 8} more" if len(weights) > 8 else ""),
        remedy=f"donor.path={folder / weights[0]}",
    )


def classes_of_folder(folder: Path) -> tuple[str, ...] | None:
    """The class names in a run's folder or an exported model.

    Raises:
        InputError: its model.json is damaged.
    """
    record = record_of(folder) or {}
    names = record.get("classes")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise refused(folder, expected="`classes` in its model.json as a list of names", received=str(names)[:80])
    return tuple(names)


def record_of(folder: Path) -> dict[str, Any] | None:
    """The contents of model.json in a run's folder or an exported model; None if there is none.

    Raises:
        InputError: the file is damaged.
    """
    path = next((path for path in (folder / "model" / _RECORD, folder / _RECORD) if path.is_file()), None)
    if path is None:
        return None
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except DAMAGE as error:
        raise refused(path, expected="a model's description in JSON", received=first_line(error)) from error
    return content if isinstance(content, dict) else {}


def _listing(names: list[str]) -> str:
    if not names:
        return "an empty folder"
    return f"a folder with {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")


SCHEME = "python:"
"""Prefix of a donor.path that names a factory. A factory is the user's own code and is executed; the contents of a file
never are."""


def open_imported(reference: str) -> Donor:
    """Calls `factory()` of `python:package.module:factory` and uses the weights of the module that it returns.

    Raises:
        InputError: the reference is neither an `nn.Module` nor a callable that returns one.
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
    value = getattr(module, attribute)
    model = value if isinstance(value, nn.Module) else value() if callable(value) else value
    if not isinstance(model, nn.Module):
        raise InputError(f"donor.path: expected {reference} to give an nn.Module, received {type(model).__name__}")
    donor = donor_of_module(model, source=reference)
    donor.fingerprint = donor.hash_values()
    return donor
