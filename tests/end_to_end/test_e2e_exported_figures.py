"""What a run says of its images is what the network that it exports says of the files, however it was computed.

Every way runs as on a processor with units for bfloat16, which is where a faster way would be another function.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image

import graft
from benchmarks.composed import composed
from graft.pipeline.run import run
from graft.results.predictions import Predictions, read_predictions
from tests.finetune.processes import processes

CLOSE = 1e-3  # of a probability; of a regression's standard deviation
BACKBONE = "test_efficientnet"
TASKS = ("single_label", "multi_label", "regression")
COLOURS = ("red", "green", "blue")
IN_BF16 = ("trainer.precision=bf16-mixed",)
FLOAT32 = "folded, float32"
AS_IT_IS = "the network as it is"

WAYS: dict[str, tuple[str, ...]] = {
    "head solved on kept features": (),
    "head solved on kept features, computed in bf16": IN_BF16,
    "head on every block solved": ("head=stages",),
    "the better of both heads": ("head=auto",),
    "head on kept features": ("head.solver=sgd",),
    "head on kept features, trained in bf16": ("head.solver=sgd", *IN_BF16),
    "head on features stored in float16": ("cache=features", "cache.dtype=float16"),
    "blocks pooled under one layer, kept": ("head=stages",),
    "blocks pooled under one layer, on images in bf16": ("head=stages", "head.pool=[mean,max]", "cache=none", *IN_BF16),
    "tail behind kept features": ("freeze=stage1-3",),
    "tail behind kept features, trained in bf16": ("freeze=stage1-3", *IN_BF16),
    "tail behind kept views, trained in bf16": (
        "freeze=stage1-3", "cache=features", "cache.views=2", "augment=light", *IN_BF16,
    ),
    "tail behind a prefix on images": ("freeze=stage1-3", "cache=none"),
    "tail behind a prefix on images, trained in bf16": ("freeze=stage1-3", "cache=none", *IN_BF16),
    "everything, trained in bf16": ("freeze=none", *IN_BF16),
    "everything, channels-first": ("freeze=none", "trainer.channels_last=false", *IN_BF16),
    "everything, from kept images": ("freeze=none", "cache=images", *IN_BF16),
    "first the head, then everything": ("unfreeze=lp_ft", "unfreeze.start=1 epoch", *IN_BF16),
    "a mean of the weights": ("freeze=stage1-3", "method.ema=0.5", *IN_BF16),
    "a mean of the weights, prefix on images": ("freeze=stage1-3", "method.ema=0.5", "cache=none", *IN_BF16),
    "mixed images": ("freeze=none", "augment.mixup=0.2", *IN_BF16),
    "additions of low rank": ("method.lora=2", *IN_BF16),
    "additions of low rank in float32": ("method.lora=2",),
    "the recipe of low rank, trained in bf16": ("experiment=lora", "head.start=random", *IN_BF16),
    "the fastest step": ("freeze=stage1-3", "cache=none", "trainer.tune=auto"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of noise, any of three channels brightened, a table of each task, and a donor whose norms say
    something.
    """
    place, rng = tmp_path_factory.mktemp("coloured"), np.random.default_rng(0)
    rows: dict[str, list[str]] = {task: ["path,label"] for task in TASKS}
    for number in range(60):
        bright = rng.random(3) < 0.5
        pixels = rng.integers(0, 160, (40, 40, 3)) + 60 * bright
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")
        names = [name for name, is_bright in zip(COLOURS, bright, strict=True) if is_bright]
        rows["single_label"].append(f"{number}.png,{names[0] if names else 'dark'}")
        rows["multi_label"].append(f"{number}.png,{';'.join(names)}")
        rows["regression"].append(f"{number}.png,{1000 + 10 * (int(bright[0]) - int(bright[2]))}")
    for task, lines in rows.items():
        (place / f"{task}.csv").write_text("\n".join(lines) + "\n")
    torch.manual_seed(0)
    donor = timm.create_model(BACKBONE, num_classes=5)
    for part in donor.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None  # statistics of what it sees here
    with torch.no_grad():
        donor.train()(torch.randn(32, 3, 32, 32))
    torch.save(donor.state_dict(), place / "donor.pth")
    return place


@pytest.fixture(autouse=True)
def bfloat16_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})


def train(folder: Path, place: Path, *words: str, task: str = "single_label") -> None:
    """A run of three short epochs, in place/run."""
    kept = () if "cache=none" in words else (f"cache.dir={place / 'cache'}",)
    given = [
        "backbone=timm", f"backbone.name={BACKBONE}", "donor=file", f"donor.path={folder / 'donor.pth'}", "data=csv",
        f"data.root={folder / task}.csv", f"data.task={task}", "data.test_fraction=0.2", "data.image_size=32",
        "data.batch_size=9", "data.num_workers=0", "trainer.max_epochs=3", "trainer.accelerator=cpu",
        "trainer.progress=false", "optimizer.lr=0.02", *kept, *words,
    ]  # fmt: skip
    run(composed(*given), place / "run", given)


def trained(folder: Path, place: Path, *words: str, task: str = "single_label") -> dict[str, Any]:
    """Such a run's metrics.json."""
    train(folder, place, *words, task=task)
    return json.loads((place / "run" / "metrics.json").read_text())


def loss_and_accuracy(said: Predictions, outputs: torch.Tensor) -> tuple[float, float | None]:
    """As the libraries compute them, of what the exported network says."""
    truth = torch.from_numpy(said.truth)
    match said.task.value:
        case "single_label":
            right = (outputs.argmax(1) == truth).double().mean()
            return float(F.cross_entropy(outputs, truth.long())), float(right)
        case "multi_label":
            return float(F.binary_cross_entropy_with_logits(outputs, truth.float())), None
    return float("nan"), None  # of standardised numbers


def agree_with_the_export(run_folder: Path, metrics: dict[str, Any]) -> None:
    """predictions.csv and the test figures are what the exported network says of the files; the best epoch's row is
    metrics.json's.
    """
    model: Any = graft.load(run_folder)
    for said in read_predictions(run_folder / "predictions.csv").values():
        with torch.inference_mode():
            outputs = model(torch.stack([model.preprocess(path) for path in said.paths]))
            expected = model.answers(outputs).double().numpy()
        scale = said.truth.std() if said.task.value == "regression" else 1.0
        assert np.abs(said.answers_NK - expected).max() < CLOSE * scale
        if said.truth.ndim == 1:
            assert (said.answers_NK.argmax(1) == expected.argmax(1)).all()
        loss, accuracy = loss_and_accuracy(said, outputs)
        figures = {f"{said.part}/loss": loss, f"{said.part}/accuracy": accuracy}
        figures = {name: value for name, value in figures.items() if value is not None and not np.isnan(value)}
        assert {name: metrics[name] for name in figures} == pytest.approx(figures, rel=1e-3, abs=1e-4)
    with open(run_folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["val/loss"]) for row in rows]
    best = rows[losses.index(min(losses))]
    told = {name: float(value) for name, value in best.items() if name.startswith("val/")}
    assert {name: metrics[name] for name in told} == pytest.approx(told, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_said_of_an_image_is_what_the_exported_network_says(folder: Path, tmp_path: Path, way: str) -> None:
    metrics = trained(folder, tmp_path, *WAYS[way])
    agree_with_the_export(tmp_path / "run", metrics)
    train = "bf16-mixed" if IN_BF16[0] in WAYS[way] else metrics["precision"]["train"]
    assert metrics["precision"] == {"train": train, "evaluation": "32-true"}
    ways = [*metrics["features"].values(), *metrics["prefix"].values()]
    assert {each["evaluation"] for each in ways} <= {FLOAT32, AS_IT_IS}


@pytest.mark.parametrize("task", TASKS[1:])
@pytest.mark.parametrize("words", [(), IN_BF16, ("freeze=none", *IN_BF16)], ids=["default", "bf16", "everything"])
def test_the_same_of_several_labels_and_of_numbers(
    folder: Path, tmp_path: Path, task: str, words: tuple[str, ...]
) -> None:
    columns = ("data.columns=[label]",) if task == "regression" else ()
    metrics = trained(folder, tmp_path, *columns, *words, task=task)
    agree_with_the_export(tmp_path / "run", metrics)


@pytest.mark.parametrize("words", [(), ("freeze=none",), ("freeze=stage1-3", "cache=none")], ids=" ".join)
def test_the_same_of_two_processes(folder: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    several = ("trainer=ddp", "trainer.devices=2", *IN_BF16, *words)
    assert processes(2, lambda rank: train(folder, tmp_path, *several)) == [0, 0]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["precision"] == {"train": "bf16-mixed", "evaluation": "32-true"}
    agree_with_the_export(tmp_path / "run", metrics)
