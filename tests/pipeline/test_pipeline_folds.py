"""Cross-validation of a solved head: figures out of fold are those of heads that scikit-learn solves without it."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import timm
import torch
from sklearn.linear_model import LogisticRegression

import graft
from graft.config.faults import InputError
from graft.results.predictions import read_predictions
from tests.pipeline.coloured import carried_out, write_images_and_donor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("folded")
    write_images_and_donor(place, images=45, brighter=12)
    return place


@pytest.fixture(scope="module")
def metrics(folder: Path) -> dict[str, Any]:
    return carried_out(folder, folder, "data.folds=3")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "run" / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def features_of(model: Any, paths: list[str]) -> np.ndarray:
    trunk = model.network if hasattr(model, "network") else model
    assert isinstance(trunk, timm.models.EfficientNet)
    with torch.inference_mode():
        maps = trunk.forward_features(torch.stack([model.preprocess(path) for path in paths]))
        return trunk.forward_head(maps, pre_logits=True).double().numpy()


def test_answers_out_of_fold_are_those_of_heads_without_the_fold(folder: Path, metrics: dict[str, Any]) -> None:
    rows = [row for row in rows_of(folder) if row["part"] == "val"]
    assert len(rows) == 90
    model: Any = graft.load(folder / "run")
    x = features_of(model, [row["path"] for row in rows])
    y, fold = (np.array([int(row[name]) for row in rows]) for name in ("target", "fold"))
    temperature = metrics["calibration"]["temperature"]
    for number in range(3):
        inside, outside = fold != number, fold == number
        mean, scale = x[inside].mean(0), x[inside].std(0) * x.shape[1] ** 0.5
        strength = 1 / (metrics["folds"]["penalty"] * inside.sum())
        reference = LogisticRegression(C=strength, tol=1e-10, max_iter=20_000)
        reference.fit((x[inside] - mean) / scale, y[inside])
        logits = torch.from_numpy(reference.decision_function((x[outside] - mean) / scale))
        expected = (logits / temperature).softmax(1).numpy()
        received = [[float(row[f"prob_{k}"]) for k in range(3)] for row, out in zip(rows, outside, strict=True) if out]
        np.testing.assert_allclose(received, expected, atol=5e-3)


def test_the_exported_head_is_solved_on_all_of_them(folder: Path, metrics: dict[str, Any]) -> None:
    rows = rows_of(folder)
    pool, test = ([row for row in rows if row["part"] == part] for part in ("val", "test"))
    model: Any = graft.load(folder / "run")
    x, z = (features_of(model, [row["path"] for row in part]) for part in (pool, test))
    y = np.array([int(row["target"]) for row in pool])
    mean, scale = x.mean(0), x.std(0) * x.shape[1] ** 0.5
    strength = 1 / (metrics["folds"]["penalty"] * 2 / 3 * len(x))
    reference = LogisticRegression(C=strength, tol=1e-10, max_iter=20_000).fit((x - mean) / scale, y)
    logits = torch.from_numpy(reference.decision_function((z - mean) / scale))
    expected = (logits / metrics["calibration"]["temperature"]).softmax(1).numpy()
    np.testing.assert_allclose([[float(row[f"prob_{k}"]) for k in range(3)] for row in test], expected, atol=5e-3)


def test_figures_are_of_every_image_once(folder: Path, metrics: dict[str, Any]) -> None:
    table = read_predictions(folder / "run" / "predictions.csv")
    right = table["val"].answers_NK.argmax(1) == table["val"].truth
    assert metrics["val/accuracy"] == pytest.approx(right.mean())
    fold = np.array([int(row["fold"]) for row in rows_of(folder) if row["part"] == "val"])
    each = [right[fold == number].mean() for number in range(3)]
    accuracy = metrics["folds"]["figures"]["accuracy"]
    assert accuracy["folds"] == pytest.approx(each)
    assert accuracy["mean"] == pytest.approx(fmean(each))
    assert accuracy["deviation"] == pytest.approx(stdev(each))
    assert metrics["intervals"]["val/accuracy"]["value"] == pytest.approx(right.mean())
    assert metrics["calibration"]["images"] in (0, 90)
    assert {row["fold"] for row in rows_of(folder) if row["part"] == "test"} == {""}


def test_a_network_that_trains_takes_a_fold_at_a_time(folder: Path, tmp_path: Path) -> None:
    words = ("freeze=none", "trainer.max_epochs=1", "data.folds=3")
    with pytest.raises(InputError, match=r"-m data.fold=0,1,2 data.folds=3"):
        carried_out(folder, tmp_path, *words)
    metrics = carried_out(folder, tmp_path, *words, "data.fold=1")
    assert len([row for row in rows_of(tmp_path) if row["part"] == "val"]) == 30
    assert "folds" not in metrics


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("data.fold=1",), "data.fold"),
        (("data.folds=3", "data.fold=3"), "data.fold"),
        (("data.folds=1",), "data.folds"),
        (("data.folds=3", "head.refit=true"), "head.refit"),
    ],
)
def test_folds_that_cannot_be_are_refused(folder: Path, tmp_path: Path, words: tuple[str, ...], key: str) -> None:
    with pytest.raises(InputError, match=key):
        carried_out(folder, tmp_path, *words)
