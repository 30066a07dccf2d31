"""metrics=: figures of torchmetrics and of a user's own, where the task's own figures are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_cohen_kappa

import graft
from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.config.own_code import refuse_own_code
from graft.pipeline.session import plan
from graft.tasks.own_metrics import own_metrics
from tests.own_metrics import Sureness, worst_class
from tests.pipeline.coloured import words, write_images_and_donor

KAPPA = "torchmetrics.classification:MulticlassCohenKappa"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_images_and_donor(folder, images=24, brighter=20)
    return folder


def check_figures(run: graft.pipeline.session.Run, power: float) -> None:
    """The run's figures are those of its predictions."""
    for part, predictions in run.predictions.items():
        answers, labels = torch.from_numpy(predictions.answers_NK), torch.from_numpy(predictions.truth)
        kappa = multiclass_cohen_kappa(answers, labels, num_classes=3)
        assert run.metrics[f"{part}/kappa"] == pytest.approx(float(kappa), abs=1e-5)
        assert run.metrics[f"{part}/worst"] == pytest.approx(float(worst_class(answers, labels)), abs=1e-5)
        sureness = predictions.answers_NK.max(1) ** power
        assert run.metrics[f"{part}/sureness"] == pytest.approx(float(np.mean(sureness)), abs=1e-5)


def test_a_solved_head_is_measured_by_them(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = {"kappa": KAPPA, "worst": worst_class, "sureness": {"_target_": Sureness, "power": 2}}
    run = graft.train(*words(place, tmp_path), metrics=chosen, folder=tmp_path / "run")
    assert sorted(run.predictions) == ["test", "val"]
    check_figures(run, power=2)
    assert f"kappa {run.metrics['test/kappa']:.4f}, worst {run.metrics['test/worst']:.4f}" in capsys.readouterr().out
    page = run.report.read_text(encoding="utf-8")
    assert ">test kappa<" in page
    assert ">worst<" in page


def test_training_shows_them_and_chooses_by_one(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = graft.train(
        *words(place, tmp_path, "freeze=none", "trainer.max_epochs=2", "optimizer.lr=1e-3"),
        "trainer.progress=true", "checkpoint.monitor=val/kappa", "checkpoint.direction=max", "head.start=random",
        metrics={"kappa": KAPPA, "worst": worst_class, "sureness": Sureness}, folder=tmp_path / "run",
    )  # fmt: skip
    check_figures(run, power=1)
    rows = list(csv.DictReader((run.folder / "metrics.csv").read_text().splitlines()))
    kappas = [float(row["val/kappa"]) for row in rows]
    assert run.metrics["best_epoch"] == 1 + kappas.index(max(kappas))
    assert f"kappa {kappas[0]:.4f}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{f1: tests.own_metrics:worst_class}", r"metrics: expected names .* other than accuracy, auroc, f1, loss"),
        ("{a-b: tests.own_metrics:worst_class}", r"metrics: expected names of letters"),
        ("{a: tests.own_metrics:worst_clas}", r"metrics\.a: .*'worst_clas', .*try tests\.own_metrics:worst_class"),
        ("{a: 3}", r"metrics\.a: expected an import path"),
        ("{a: tests.own_metrics:two_numbers}", r"metrics\.a: expected a number for 8 images of 3 outputs"),
        (
            "{a: {_target_: tests.own_metrics:Sureness, base: 2}}",
            r"metrics\.a: expected tests\.own_metrics:Sureness to",
        ),
        ("{a: pathlib:Path}", r"metrics\.a: expected pathlib:Path to be a torchmetrics\.Metric"),
    ],
)
def test_what_is_wrong_is_said_before_training(place: Path, tmp_path: Path, entry: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        plan(*words(place, tmp_path), f"metrics={entry}")


def test_a_monitor_of_another_name_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"checkpoint\.monitor: .*val/kappa.*try|try checkpoint\.monitor=val/kappa"):
        plan(*words(place, tmp_path), f"metrics={{kappa: {KAPPA}}}", "checkpoint.monitor=val/kapa")


@pytest.mark.parametrize("kind", TaskKind)
def test_the_sizes_that_a_metric_takes_are_the_tasks(kind: TaskKind) -> None:
    names = {
        TaskKind.single_label: "torchmetrics.classification:MulticlassMatthewsCorrCoef",
        TaskKind.multi_label: "torchmetrics.classification:MultilabelRankingLoss",
        TaskKind.regression: "torchmetrics.regression:MeanAbsolutePercentageError",
    }
    assert list(own_metrics({"own": names[kind]}, kind, 3)) == ["own"]


@pytest.mark.parametrize("settings", [{"metrics.a": "a:b"}, {"metrics": "{a: a:b}"}])
def test_a_foreign_run_that_names_one_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected a run without code of its own"):
        refuse_own_code("run", settings)
