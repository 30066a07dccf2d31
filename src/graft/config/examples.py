"""Values written out as one types them: examples of keys, commands to go on with, places of donors."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from graft.config.keys import schema_keys
from graft.config.program import program

# For keys whose default is null, empty or missing.
EXAMPLES = {
    "augment.crop_scale": "[0.8,1.0]",
    "augment.target": "torchvision.transforms.v2:RandomPosterize",
    "backbone.drop_path": "0.1",
    "backbone.drop_rate": "0.2",
    "backbone.target": "package.module:build",
    "backbone.published.preprocess.crop_fraction": "0.875",
    "data.accept": "[duplicates]",
    "data.columns": "[age,weight]",
    "data.crop_fraction": "1.0",
    "backbone.published.preprocess.image_size": "224",
    "backbone.published.preprocess.interpolation": "bilinear",
    "backbone.published.preprocess.mean": "[0.485,0.456,0.406]",
    "backbone.published.preprocess.std": "[0.229,0.224,0.225]",
    "backbone.published.rename": r"[['^encoder\.','']]",
    "checkpoint.every_n_steps": "100",
    "data.exclude": "FILE.csv",
    "data.fold": "0",
    "data.folds": "5",
    "data.group": "patient",
    "data.image_size": "224",
    "data.num_workers": "2",
    "data.relabel": "FILE.csv",
    "data.root": "PATH",
    "data.target": "package.module:rows",
    "donor.adapt": "{conv1.weight: input_sum}",
    "donor.class_map": "names",
    "donor.keras.absent": "{bn*: gamma}",
    "donor.keras.accept": "[padding]",
    "donor.keras.epsilon": "0.001",
    "donor.keras.flatten": "{fc1: 512}",
    "donor.path": "PATH",
    "donor.rename": r"[['^encoder\.','']]",
    "donor.sha256": "null",
    "donor.table": "{encoder.weight: conv1.weight}",
    "head.decays": "[1, 0.1]",
    "head.hidden": "[256]",
    "head.target": "package.module:Class",
    "loss.target": "package.module:loss",
    "loss.weights": "{cat: 2.0}",
    "method.ema": "0.999",
    "method.lora": "8",
    "method.lora_alpha": "16",
    "method.lora_targets": "[layer4.*]",
    "optimizer.layer_decay": "0.75",
    "optimizer.lr": "1e-3",
    "optimizer.lr_scale": "{head: 10}",
    "optimizer.target": "package.module:Optimizer",
    "optimizer.no_decay": "['*.gamma']",
    "results.by": "[camera]",
    "results.cost": "10",
    "results.positive": "CLASS",
    "results.sensitivity": "0.95",
    "scheduler.target": "package.module:factor",
    "trainer.clip_norm": "1.0",
    "trainer.patience": "5",
    "trainer.max_epochs": "10",
    "trainer.threads": "2",
    "unfreeze.phase_factors": "[1,0.1]",
    "unfreeze.start": "'1 epoch'",
    "unfreeze.target": "package.module:freeze",
    "unfreeze.table": "{3 epochs: none}",
}


def example(key: str) -> str:
    """`key=value` that is right; "" where nothing better is known."""
    default = schema_keys()[key].default
    if key in EXAMPLES:
        value = EXAMPLES[key]
    elif default is dataclasses.MISSING or default is None or default in ([], {}):
        return ""
    else:
        value = override_value(default)
    word = f"{key}={value}"
    return f'"{word}"' if set(" {[(") & set(value) else word


def override_value(value: Any) -> str:
    """A value in Hydra's override syntax."""
    if isinstance(value, Enum):
        return str(value.value)
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


PLAIN = re.compile(r"[\w./+-]+")  # what Hydra's override syntax takes without quotes


def command_to_go_on(overrides: Sequence[str], folder: Path) -> str:
    """The same run in the same folder, where resume=auto finds its checkpoint."""
    words = [word for word in overrides if not word.startswith("resume=")]
    place = str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
    run_dir = place if PLAIN.fullmatch(place) else quoted(place)
    return shlex.join([*program(), *words, f"hydra.run.dir={run_dir}"])


def quoted(value: object) -> str:
    """As Hydra's override syntax takes any text."""
    plain = str(value).replace("'", "\\'")
    return f"'{plain}'"


HUB = "hf-hub:"
LOCAL_DIR = "local-dir:"
PYTHON = "python:"


def place_of(path: str) -> Path | None:
    """The file or folder that must exist on this machine; None where the path names none."""
    if path.startswith((HUB, PYTHON)):
        return None
    return Path(path.removeprefix(LOCAL_DIR)).expanduser()
