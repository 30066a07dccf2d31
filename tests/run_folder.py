"""A run's folder with generated content, for the tests of what reads one."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from graft.results.predictions import Predictions, write_predictions
from graft.system.files import write_json, write_text

STAGES = ("stem", "layer1", "head")
METRICS = {
    "val/accuracy": 0.7,
    "test/accuracy": 0.6,
    "epochs": 3,
    "best_epoch": 2,
    "frozen_verified": True,
    "train/seconds": 75.0,
    "seconds": {"fit": 75.0, "import": 5.0},
    "seconds_to_first_step": 7.25,
    "profile": {"backward": 0.625, "data": 0.375},
}
LEDGER = {
    "donor": {"source": "donor.pth", "sha256": "ab" * 32, "format": "torch"},
    "summary": {"copied": 1, "initialized": 1, "parameters_transferred_fraction": 0.9},
    "remarks": ["container state_dict"],
    "tensors": [
        {"target": "stem.weight", "verdict": "copied", "source": "conv1.weight", "rule": "renamed", "shape": [4, 3]},
        {"target": "head.bias", "verdict": "initialized", "source": None, "shape": [], "reason": "new head"},
    ],
    "donor_tensors": [{"source": "fc.bias", "status": "excused", "reason": "the donor's head"}],
}
UNMOVED = {"stage": "stem", "change": 0.0, "largest": "stem.weight", "largest_change": 0.0, "tensors": 1, "moved": 0}
MOVED = {"stage": "head", "change": 0.25, "largest": "head.bias", "largest_change": 0.5, "tensors": 1, "moved": 1}
DRIFT = {"since": "donor", "stages": [UNMOVED, MOVED]}


def plan(classes: Sequence[str]) -> dict[str, Any]:
    return {
        "backbone": "resnet18",
        "classes": list(classes),
        "epochs": 3,
        "stages": [{"name": stage} for stage in STAGES],
        "phases": [
            {"start_epoch": 0, "frozen_stages": ["stem", "layer1"]},
            {"start_epoch": 1.5, "frozen_stages": ["stem"], "factor": 0.1},
        ],
        "thaw_warmup_steps": 4,
        "steps_per_epoch": 8,
        "data": {
            "kind": "folder",
            "parts": {part: dict.fromkeys(classes, 20) for part in ("train", "val", "test")},
            "skipped": [{"path": "torn.jpg", "reason": "0 bytes"}],
        },
    }


def write_run(
    folder: Path,
    *,
    classes: Sequence[str] = ("fine", "<b>bad</b>"),
    images: int = 40,
    pictures: bool = True,
    where: Path | None = None,
    hits: float = 0.5,
    metrics: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """A run's folder as a run leaves it.

    Args:
        where: the folder of the images, by default the run's own.
        hits: the share of images whose true class is made the likeliest.
        metrics: entries of metrics.json to set otherwise.
        settings: entries of .hydra/config.yaml.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    where = where or folder
    paths = [str(where / f"{k}.{'png' if k % 2 else 'jpg'}") for k in range(images)]
    if pictures:
        for path in paths:
            Image.fromarray(generator.integers(0, 255, (40, 50), dtype=np.uint8)).save(path)
    targets = generator.integers(0, len(classes), images)
    probabilities = generator.dirichlet(np.ones(len(classes)), images)
    hit = round(hits * images)
    for row, target in zip(probabilities[:hit], targets[:hit], strict=True):
        best = row.argmax()
        row[best], row[target] = row[target], row[best]
    said = [
        Predictions(part=part, paths=tuple(paths), truth=targets, answers_NK=probabilities) for part in ("val", "test")
    ]
    write_predictions(folder, said, classes=classes)
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        rates = ["lr/layer1", "lr/layer2", "lr/head"]
        writer.writerow(["epoch", "step", "lr", *rates, "frozen", "train/loss", "val/loss", "val/accuracy"])
        for k in range(3):
            rate = 0.1 / (k + 1)
            losses = 1 / (k + 1), 1.1 / (k + 1), 0.5 + 0.1 * k
            writer.writerow([k + 1, 9 * (k + 1), rate, rate / 10 if k else "", rate / 10, rate, "backbone", *losses])
    write_json(folder / "metrics.json", {**METRICS, **(metrics or {})})
    write_json(folder / "plan.json", plan(classes))
    write_json(folder / "transfer.json", LEDGER)
    write_json(folder / "drift.json", DRIFT)
    (folder / ".hydra").mkdir(exist_ok=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(dict(settings or {}), sort_keys=False))
    write_text(folder / ".hydra" / "overrides.yaml", "- seed=0\n")
    return folder
