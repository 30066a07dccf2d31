"""The model folder: the weights under the library's own names, and a record of how they were made.

`model.safetensors` loads with strict=True into the plain torchvision or timm model that `build` in `model.json` names.
README.md is the model card.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from graft.config.choices import TaskKind
from graft.config.faults import RunFailed
from graft.models.network import Network
from graft.results.card import FILE as CARD
from graft.results.card import model_card
from graft.system.files import atomic_path, sha256, write_json, write_text

FORMAT = 1
WEIGHTS = "model.safetensors"
RECORD = "model.json"


def export(
    network: Network,
    folder: Path | str,
    *,
    classes: Sequence[str],
    task: Mapping[str, Any] | None = None,
    donor: Mapping[str, Any],
    freeze: Mapping[str, Any],
    ledger: Mapping[str, Any] | None = None,
    frozen: Collection[str] = (),
    data: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    intervals: Mapping[str, Mapping[str, Any]] | None = None,
    left_out: Mapping[str, Sequence[str]] | None = None,
    calibration: Mapping[str, Any] | None = None,
    threshold: Mapping[str, Any] | None = None,
    command: str | None = None,
) -> None:
    """Writes the network's weights, record and card. At no time does a record lie beside another network's weights.

    Args:
        classes: names of the outputs: classes, labels or numbers.
        task: `Task.record()`; None: one class per image.
        donor: source, sha256 and format, as in the ledger, and the licence.
        freeze: the freeze record: expression, schedule, and whether it was verified.
        ledger: the contents of transfer.json, which has the origin of each tensor for the birth certificate.
        frozen: names of the tensors that no phase trained.
        data: the number of images of each class by part, as in plan.json.
        metrics: the run's figures by name.
        intervals: `interval_record()`.
        left_out: for each averaged metric, the outputs that it leaves out.
        calibration: `Calibration.record()`. Logits are divided by its temperature before they become probabilities.
        threshold: `Threshold.record()`, the probability from which the positive class is predicted.
        command: the command line of the run.

    Raises:
        InputError: the state dict has a value that is no tensor.
    """
    weights = separate_tensors(network.module)
    record = {
        "format": FORMAT,
        "made_by": made_by(),
        "build": dict(network.build),
        "head": dict(network.head),
        "classes": list(classes),
        "task": dict(task or {"kind": TaskKind.single_label.value}),
        "stages": {stage.name: list(stage.prefixes) for stage in network.stages.trunk},
        "heads": list(network.stages.heads),
        "preprocess": asdict(network.preprocess),
        "donor": dict(donor),
        "freeze": dict(freeze),
        "data": dict(data or {}),
        "metrics": dict(metrics or {}),
        "intervals": dict(intervals or {}),
        "left_out": dict(left_out or {}),
        "calibration": None if calibration is None else dict(calibration),
        "threshold": None if threshold is None else dict(threshold),
        "command": command,
        "tensors": birth_certificate(weights, ledger or {}, frozen),
    }
    write_folder(Path(folder), weights, record)


def write_folder(folder: Path, weights: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> None:
    """Writes weights, card and record. The record is written last, with the hash of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)  # an earlier record must not lie beside the new weights
    write_weights(weights, folder / WEIGHTS)
    account = {**record, "weights": {"file": WEIGHTS, "sha256": sha256(folder / WEIGHTS)}}
    write_text(folder / CARD, model_card(account))
    write_json(folder / RECORD, account)


def write_account(path: Path, record: Mapping[str, Any]) -> None:
    """Writes the record and the card of an export that is one file: FILE.json and FILE.md beside it."""
    account = {**record, "weights": {"file": path.name, "sha256": sha256(path)}}
    write_text(path.with_name(f"{path.name}.md"), model_card(account))
    write_json(path.with_name(f"{path.name}.json"), account)


def graph_metadata(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The metadata of an exported graph, as JSON texts by name. A graph of several models has what they share.

    Args:
        records: the record of each model whose answers are averaged.
    """
    record = records[0]
    entries: dict[str, Any] = {
        "classes": record["classes"],
        "task": record.get("task", {"kind": TaskKind.single_label.value}),
        "weights_sha256": [each.get("weights", {}).get("sha256") for each in records],
    }
    if len(records) == 1:
        names = ("preprocess", "calibration", "threshold", "donor", "metrics")
        entries |= {"weights_sha256": entries["weights_sha256"][0], **{name: record.get(name) for name in names}}
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in entries.items() if value is not None}
    return {"made_by": made_by(), **texts}


def separate_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict as contiguous tensors on the CPU that share no memory. Tied weights are copied once per name.

    Raises:
        InputError: a value of the state dict is no tensor.
    """
    tensors: dict[str, torch.Tensor] = {}
    pointers: set[int] = set()
    for name, value in module.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise RunFailed(
                f"model export: expected tensors in the state dict, received {type(value).__name__} under {name!r}; "
                "try a head without extra state"
            )
        tensor = value.detach().cpu().contiguous()
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        tensors[name] = tensor if whole and tensor.data_ptr() not in pointers else tensor.clone()
        pointers.add(tensor.data_ptr())
    return tensors


def write_weights(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    with atomic_path(path) as temporary:
        save_file(dict(tensors), temporary, metadata={"format": "pt"})
        mask = os.umask(0o022)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # safetensors creates a file that only its owner can read


def birth_certificate(names: Collection[str], ledger: Mapping[str, Any], frozen: Collection[str]) -> dict[str, Any]:
    """The origin of each tensor and whether it was trained, and how many tensors have each combination of both.

    `origin` is the ledger's verdict, or `unknown` for a tensor that the ledger does not list. `rule` is how it was
    renamed or adapted, and `reason` why it was newly initialized.

    Args:
        names: every tensor of the network.
        frozen: those that were not trained.
    """
    origins = {entry["target"]: entry for entry in ledger.get("tensors", [])}
    still = frozenset(frozen)
    each: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for name in names:
        entry = origins.get(name, {})
        origin = entry.get("verdict", "unknown")
        how = {key: entry[key] for key in ("rule", "reason") if entry.get(key)}
        each[name] = {"origin": origin, "source": entry.get("source"), **how, "trained": name not in still}
        pair = f"{origin}, {'untouched' if name in still else 'trained'}"
        counts[pair] = counts.get(pair, 0) + 1
    return {"summary": counts, "each": each}


def made_by() -> str:
    """The name and version of graft, for model.json."""
    try:
        return f"graft {version('graft-transfer')}"
    except PackageNotFoundError:
        return "graft, run from its sources"
