"""A run of each task, from a table of images to its folder, and what other commands make of it."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import graft
from graft.commands.cli import dispatch

Train = Callable[..., subprocess.CompletedProcess[str]]

TINY = (
    "backbone=timm", "backbone.name=test_efficientnet", "donor=none", "freeze=none", "data=csv", "data.image_size=64",
    "data.batch_size=8", "data.test_fraction=0.2", "optimizer.lr=0.003", "trainer.accelerator=cpu",
)  # fmt: skip
COLOURS = ("red", "green", "blue")

pytestmark = pytest.mark.slow


@pytest.fixture
def coloured(tmp_path: Path) -> Path:
    """60 images of dark noise, each with any of three channels brightened; warmth is how much red outweighs blue."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "coloured"
    folder.mkdir()
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "warmth"])
        for number in range(60):
            bright = rng.random(3) < 0.5
            pixels = rng.integers(0, 60, (32, 32, 3)) + 150 * bright
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
            names = ";".join(name for name, is_bright in zip(COLOURS, bright, strict=True) if is_bright)
            writer.writerow([f"{number}.png", names, 1000 + 10 * (int(bright[0]) - int(bright[2]))])
    return folder


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_several_labels_an_image(train: Train, coloured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    done = train(
        *TINY, f"data.root={coloured / 'table.csv'}", "data.task=multi_label", "trainer.max_epochs=12",
        "loss.class_weights=balanced", "loss.label_smoothing=0.05", "augment.mixup=0.1", "checkpoint.monitor=val/map",
        "checkpoint.direction=max",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 labels, any of them (blue, green, red)" in done.stdout
    run = tmp_path / "run"
    metrics = read(run / "metrics.json")
    figures = {"loss", "map", "f1", "f1_micro", "auroc", "label_accuracy"}
    assert {name for name in metrics if name.startswith("test/")} == {f"test/{name}" for name in figures}
    assert metrics["test/map"] > 0.9
    assert "confusion" not in metrics
    record = read(run / "model" / "model.json")
    assert (record["classes"], record["task"]) == (["blue", "green", "red"], {"kind": "multi_label"})
    assert set(record["intervals"]["test/map"]) >= {"low", "high"}
    assert "Per label" in (run / "report.html").read_text(encoding="utf-8")
    image = str(coloured / "0.png")
    model = graft.load(run)
    expected = model.answers(model(model.preprocess(image)[None]))[0].tolist()
    for threshold in (0.0, 0.999999):
        assert dispatch(["predict", str(run), image, "--format", "jsonl", "--threshold", str(threshold)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert list(told["probabilities"].values()) == pytest.approx(expected, abs=1e-6)
        assert len(told["labels"]) == (3 if threshold == 0 else sum(value > threshold for value in expected))
    other = tmp_path / "other"
    assert train(*done.args[2:-1], "seed=1", "resume=never", f"hydra.run.dir={other}").returncode == 0
    assert dispatch(["soup", str(run), str(other), "--output", str(tmp_path / "soup")]) == 0
    assert read(tmp_path / "soup" / "model" / "model.json")["combined"]["metric"] == "val/map"


def test_a_number_an_image(train: Train, coloured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = (
        *TINY, f"data.root={coloured / 'table.csv'}", "data.task=regression", "data.columns=[warmth]",
        "trainer.max_epochs=15", "checkpoint.monitor=train/mae", "loss.regression=smooth_l1",
    )  # fmt: skip
    done = train(*words)
    assert done.returncode == 0, done.stderr
    assert "1 number to learn (warmth)" in done.stdout
    run = tmp_path / "run"
    metrics = read(run / "metrics.json")
    assert {name for name in metrics if name.startswith("test/")} == {
        f"test/{n}" for n in ("loss", "mae", "rmse", "r2")
    }
    assert metrics["test/mae"] < 5  # of -10, 0 and 10 around a thousand
    assert metrics["train/mae"] == pytest.approx(min(float(row["train/mae"]) for row in rows(run / "metrics.csv")))
    task = read(run / "model" / "model.json")["task"]
    assert task["kind"] == "regression"
    assert task["mean"][0] == pytest.approx(1000, abs=5)
    said = [row for row in rows(run / "predictions.csv") if row["part"] == "test"]
    gaps = [abs(float(row["true_warmth"]) - float(row["predicted_warmth"])) for row in said]
    assert np.mean(gaps) == pytest.approx(metrics["test/mae"], rel=1e-4)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Predicted over true: warmth" in page
    assert "Confusion" not in page
    image = str(coloured / "0.png")
    model = graft.load(run)
    with torch.no_grad():
        expected = model.answers(model(model.preprocess(image)[None]))
    assert dispatch(["predict", str(run), image, "--format", "csv"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header == "file,warmth,error"
    assert float(row.split(",")[1]) == pytest.approx(float(expected), rel=1e-5)
    assert dispatch(["interpolate", "donor", str(run), "--alpha", "1", "--output", str(tmp_path / "way")]) == 0
    combined = read(tmp_path / "way" / "metrics.json")
    assert combined["val/mae"] == pytest.approx(metrics["val/mae"], rel=1e-3)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
