"""The result of trainer.tune=auto: as chosen by the resumed run, as stored in the cache's folder, or measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from math import ceil, nan
from pathlib import Path
from typing import Any

import torch

from graft.config.choices import CacheKind
from graft.config.faults import InputError
from graft.data.datamodule import DataModule
from graft.finetune.module import FineTuning
from graft.finetune.resume import Resumption
from graft.finetune.step_search import Way, search_step
from graft.models.fingerprint import structure_hash
from graft.plan.describe import columns, precisions_in_words
from graft.plan.plan import Plan
from graft.results.run_forms import read_document
from graft.system.files import write_json
from graft.system.machine import processor
from graft.system.processes import all_cores

FILE = "tune.json"
FORMAT = 3  # part of the key: raised when the same ingredients are measured otherwise
STEP = ("precision", "channels_last", "compile", "accumulate", "engine", "recompute")  # what of the trainer counts
BATCHES = 2  # real ones that the steps go over


def with_fastest_step(
    plan: Plan,
    tuning: FineTuning,
    data: DataModule,
    folder: Path,
    say: Callable[[str], None],
    resumption: Resumption | None = None,
) -> Plan:
    """The plan with the fastest memory format, precision, compilation and optimizer implementation on this machine.

    A resumed run keeps its choice. Otherwise the result comes from the cache's folder for this machine, network and
    batches, or from a few steps on copies. It is written to the run's tune.json.

    Args:
        tuning: the run's training, of which only copies are trained.
        resumption: state of the run that is being resumed.
    """
    config = plan.config
    checkpoint = resumption.path if resumption else None
    if checkpoint is not None:
        record, how = _recorded(checkpoint.resolve().parent.parent / FILE), "chosen before the run was interrupted"
    else:
        record, how = _remembered_or_measured(plan, tuning, data)
    write_json(folder / FILE, record)
    plan = plan.with_step(*Way(**record["chosen"]).applied(config.trainer, config.optimizer))
    train, evaluation = precisions_in_words(plan)
    say(f"step      {how}\n{table(record)}\n          for training steps only, in {train}; {evaluation}")
    return plan


def table(record: Mapping[str, Any]) -> str:
    """The settings that were tried, one line each."""
    rows = [("          memory order", "precision", "compiled", "update", "a step", "loss off", "gradient off", "")]
    for each in record["tried"]:
        way = {name: each[name] for name in record["chosen"]}
        rows.append(
            (
                f"          channels {'last' if way['channels_last'] else 'first'}", way["precision"],
                "yes" if way["compile"] else "no", way["update"] or "as it is", f"{each['seconds']:.4g} s",
                f"{each['off']:.1e}", f"{each.get('gradient_off', nan):.1e}",
                "chosen" if way == record["chosen"] else "",
            )
        )  # fmt: skip
    return columns(rows)


def _recorded(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(
            f"trainer.tune: expected {path}, in which the run that resume= goes on with recorded what it chose,"
            " received no such file; try trainer.tune=off, or resume=never"
        )
    return dict(read_document(path))


def _remembered_or_measured(plan: Plan, tuning: FineTuning, data: DataModule) -> tuple[dict[str, Any], str]:
    config = plan.config
    data.serve(tuning.kept_at)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(ceil(plan.training.longest_phase.start_epoch))
    batches = list(islice(loader, BATCHES))
    data.serve(None)
    circumstances = _circumstances(plan, tuning, batches)
    key = hashlib.sha256(json.dumps(circumstances, sort_keys=True).encode()).hexdigest()
    place = Path(config.cache.dir) / "tune" / f"{key}.json"
    if config.cache.kind is not CacheKind.none and place.is_file():
        return dict(read_document(place)), f"as measured before ({place})"
    record: dict[str, Any] = {**search_step(tuning, batches, config.trainer).to_dict(), **circumstances}
    if config.cache.kind is not CacheKind.none:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, record)
    return record, f"measured over {len(record['tried'])} ways to compute it"


def _circumstances(plan: Plan, tuning: FineTuning, batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything that a measurement depends on: machine, network, shapes, and the other parts of a step."""
    config = plan.config
    trainer = asdict(config.trainer)
    settings = {name: trainer[name] for name in STEP}
    return {
        "machine": machine(config.trainer.accelerator),
        "network": structure_hash(tuning.network),
        "frozen": hashlib.sha256("\n".join(sorted(plan.training.longest_phase.frozen.names)).encode()).hexdigest(),
        "shapes": {
            name: [str(value.dtype), *value.shape]
            for name, value in batches[0].items() if isinstance(value, torch.Tensor)
        },
        "step": {
            **settings, "optimizer": [config.optimizer.label, sorted(map(str, config.optimizer.kwargs.items()))],
            "methods": list(plan.methods), "format": FORMAT,
        },
    }  # fmt: skip


def machine(accelerator: str) -> dict[str, Any]:
    """The properties of the machine that determine its speed."""
    gpu = torch.cuda.get_device_name() if accelerator != "cpu" and torch.cuda.is_available() else None
    return {
        "processor": processor(), "cores": all_cores(), "threads": torch.get_num_threads(),
        "gpu": gpu, "torch": torch.__version__,
    }  # fmt: skip
