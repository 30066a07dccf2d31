"""A run whose validation images are enough: one temperature in the record, in predictions.csv, on the page."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graft
from graft.results.predictions import read_predictions
from graft.tasks.single_label import SingleLabel
from graft.tasks.temperature import fit_temperature
from tests.pipeline.coloured import carried_out, write_images_and_donor


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of each part, hard enough for some mistakes, and a head that smoothed labels make too unsure."""
    place = tmp_path_factory.mktemp("calibrated")
    write_images_and_donor(place, images=60, brighter=18)
    carried_out(place, place, "loss.label_smoothing=0.5", "head.solver=sgd")
    return place


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "metrics.json").read_text())


def test_the_temperature_is_that_of_the_exported_networks_validation_logits(ended: Path) -> None:
    record = json.loads((ended / "run" / "model" / "model.json").read_text())
    model: Any = graft.load(ended / "run")
    val = read_predictions(ended / "run" / "predictions.csv")["val"]
    with torch.inference_mode():
        logits = model(torch.stack([model.preprocess(path) for path in val.paths]))
    expected = fit_temperature(SingleLabel(model.classes), logits, torch.from_numpy(val.truth))
    assert expected is not None
    assert record["calibration"]["temperature"] == pytest.approx(expected, rel=1e-3)
    assert record["calibration"]["images"] == 60
    assert record["calibration"]["reason"] is None
    assert metrics_of(ended)["calibration"] == record["calibration"]


def test_predictions_are_calibrated_and_the_loss_is_that_of_the_logits(ended: Path) -> None:
    model: Any = graft.load(ended / "run")
    metrics, table = metrics_of(ended), read_predictions(ended / "run" / "predictions.csv")
    for part, predictions in table.items():
        with torch.inference_mode():
            logits = model(torch.stack([model.preprocess(path) for path in predictions.paths]))
        answers = model.answers(logits)
        np.testing.assert_allclose(predictions.answers_NK, answers.numpy(), atol=1e-3)
        assert not np.allclose(predictions.answers_NK, logits.softmax(1).numpy(), atol=1e-3)
        label = torch.from_numpy(predictions.truth)
        loss = float(torch.nn.functional.cross_entropy(logits, label))
        assert metrics[f"{part}/loss"] == pytest.approx(loss, abs=1e-3)
        assert metrics["calibration"]["nll"][part]["before"] == pytest.approx(loss, abs=1e-3)
        calibrated = -np.log(predictions.answers_NK[np.arange(len(label)), predictions.truth]).mean()
        assert metrics["calibration"]["nll"][part]["after"] == pytest.approx(calibrated, rel=1e-5)
        assert metrics[f"{part}/auroc"] == pytest.approx(metrics["intervals"][f"{part}/auroc"]["value"], abs=1e-6)
    nll = metrics["calibration"]["nll"]["val"]
    assert nll["after"] < nll["before"]


def test_the_page_shows_both(ended: Path) -> None:
    page = (ended / "run" / "report.html").read_text()
    assert "Reliability of the plain logits" in page
    assert "Reliability at temperature" in page


def test_a_head_that_saw_the_validation_images_is_not_calibrated_on_them(ended: Path, tmp_path: Path) -> None:
    metrics = carried_out(ended, tmp_path, "head.refit=true")
    assert metrics["calibration"]["temperature"] == 1
    assert "head.refit" in metrics["calibration"]["reason"]


def test_the_row_of_each_image_names_the_likeliest_class(ended: Path) -> None:
    """A temperature changes no answer's order."""
    metrics = metrics_of(ended)
    with open(ended / "run" / "predictions.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "test"]
    right = [max(range(3), key=lambda k: float(row[f"prob_{k}"])) == int(row["target"]) for row in rows]
    assert np.mean(right) == pytest.approx(metrics["test/accuracy"])
