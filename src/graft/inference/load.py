"""Opens a run's folder or an exported model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from torch import nn

from graft.config.faults import InputError
from graft.models.network import rebuild
from graft.models.preprocess import Preprocess
from graft.results.export import FORMAT, RECORD, WEIGHTS
from graft.results.model import OpenedModel, Preparation
from graft.results.run_forms import MODEL
from graft.system.documents import Malformed, read_bytes, read_json
from graft.tasks.registry import task_of_record

NEEDED: dict[str, type] = {"weights": dict, "build": dict, "head": dict, "classes": list, "preprocess": dict}
SHOWN = 3
MOST_WEIGHTS = 1 << 46


def open_model(path: Path | str, *, import_code: bool = False) -> OpenedModel:
    """A run's folder or an exported model, as parts: the network in eval mode, its preprocessing, its record.

    Args:
        import_code: a custom backbone or head is imported from where the record says. Only for files that one trusts.

    Raises:
        InputError: nothing there, or files that are damaged or do not belong together.
    """
    folder = model_folder(path)
    record = read_record(folder)
    weights = read_weights(folder, record)
    module, preprocess = _rebuilt(record, folder, import_code)
    _fill(module, weights, folder)
    classes = tuple(str(name) for name in record["classes"])
    preparation = Preparation(preprocess)
    return OpenedModel(
        module=module.eval(), classes=classes, task=task_of_record(record), preprocess=preparation, record=record,
        folder=folder,
    )  # fmt: skip


def model_folder(path: Path | str) -> Path:
    """The folder with model.json: the path itself, its subfolder `model`, or the folder of the given file.

    Raises:
        InputError: there is none.
    """
    path = Path(path).expanduser()
    for folder in (path, path / "model", path.parent if path.is_file() else path):
        if (folder / RECORD).is_file():
            return folder
    received = "a folder without one" if path.is_dir() else "another file" if path.exists() else "nothing there"
    raise InputError(
        f"{path}: expected a run's folder or an exported model (with {RECORD} in it), received {received}; "
        "try the folder that training named at its end"
    )


def read_record(folder: Path) -> dict[str, Any]:
    """The contents of model.json, with everything that is needed to open the model.

    Raises:
        InputError: the file is not JSON, has a later format, or is incomplete.
    """
    path = folder / RECORD
    try:
        record = read_json(path)
    except (OSError, Malformed) as error:
        raise InputError(
            f"{path}: expected JSON, received something unreadable ({error}); try exporting it again"
        ) from error
    if not isinstance(record, dict) or "format" not in record:
        raise InputError(f"{path}: expected a model's record, received other JSON; try exporting the model again")
    record = cast(dict[str, Any], record)
    if record["format"] != FORMAT:
        raise InputError(
            f"{path}: expected format {FORMAT}, received {record['format']!r}; try the graft that wrote it "
            f"({record.get('made_by', 'unknown')})"
        )
    missing = [key for key, kind in NEEDED.items() if not isinstance(record.get(key), kind)]
    if missing:
        raise InputError(
            f"{path}: expected {', '.join(NEEDED)}, received no usable {', '.join(missing)}; try exporting it again"
        )
    if fault := MODEL(record) or _disagreement(record):
        raise InputError(f"{path}: expected {fault}; try exporting the model again")
    return record


def _disagreement(record: Mapping[str, Any]) -> str:
    """What parts of the record say against each other."""
    classes, build, preprocess = record["classes"], record["build"], record["preprocess"]
    names, outputs, channels = {str(name) for name in classes}, build.get("num_classes"), build.get("channels")
    if len(names) != len(classes):
        return f"classes of different names, received {len(names)} names of {len(classes)}"
    if outputs not in (len(classes), 0):
        return f"a name for each of {outputs} outputs, received {len(classes)}"
    each = {len(preprocess["mean"]), len(preprocess["std"]), preprocess.get("channels", 3)}
    if len(each) > 1 or channels not in each:
        return f"mean and std of {channels} channels, received {len(preprocess['mean'])} and {len(preprocess['std'])}"
    return ""


def read_weights(folder: Path, record: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors beside a record, if they are the ones that it was written for.

    Raises:
        InputError: there is no such file, or its hash differs from the record's.
    """
    path = folder / WEIGHTS
    try:
        content = read_bytes(path, MOST_WEIGHTS)
    except (OSError, Malformed) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: expected the model's weights, received: {reason}; try exporting it again") from error
    expected, received = record["weights"].get("sha256"), hashlib.sha256(content).hexdigest()
    if received != expected:
        raise InputError(
            f"{path}: expected the file with sha256 {expected}, received one with {received}: damaged, or of another "
            "model.json; try exporting the model again"
        )
    try:
        return tensors_of(content)
    except SafetensorError as error:
        raise InputError(f"{path}: expected safetensors, received something else ({error})") from error


def _fill(module: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Loads the tensors. Both sides must have the same names, shapes and dtypes."""
    state = module.state_dict()
    missing, further = [n for n in state if n not in weights], [n for n in weights if n not in state]
    other = [
        f"{name} {list(weights[name].shape)} {weights[name].dtype} for {list(tensor.shape)} {tensor.dtype}"
        for name, tensor in state.items()
        if name in weights and (weights[name].shape != tensor.shape or weights[name].dtype != tensor.dtype)
    ]
    wrong = [
        f"{len(names)} {what} ({', '.join(names[:SHOWN])}{' …' if names[SHOWN:] else ''})"
        for what, names in (("missing", missing), ("unknown", further), ("of another shape", other))
        if names
    ]
    if wrong:
        raise InputError(
            f"{folder}: expected the tensors of the model that {RECORD} describes, received {'; '.join(wrong)}; "
            "try the library's version with which it was exported"
        )
    module.load_state_dict(dict(weights))


def _rebuilt(record: Mapping[str, Any], folder: Path, import_code: bool) -> tuple[nn.Module, Preprocess]:
    """The module with random weights, and the preprocessing, from the record."""
    try:
        return rebuild(record["build"], record["head"], import_code=import_code), Preprocess.of(record["preprocess"])
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder / RECORD}: expected build, head and preprocess as graft writes them, received others "
            f"({type(error).__name__}: {error}); try exporting the model again"
        ) from error
