"""Temperatures against known ones and scipy's, and the same answers wherever a calibrated model gives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

import graft
from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.inference.classify import predict
from graft.inference.load import open_model
from graft.report.confidence import uncalibrated
from graft.results.calibration import Calibration, calibrate, calibration_error, fit
from graft.tasks.multi_label import MultiLabel
from graft.tasks.regression import Regression
from graft.tasks.single_label import SingleLabel
from graft.tasks.task import Task
from graft.tasks.temperature import fit_temperature

NAMES = ("a", "b", "c")
ONE, SEVERAL = SingleLabel(NAMES), MultiLabel(NAMES)


def drawn(task: Task, images: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are right at this temperature, and labels drawn from them."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(images, 3, generator=generator)
    shares = task.answers(logits).double()
    if task.kind is TaskKind.multi_label:
        return logits * temperature, torch.bernoulli(shares, generator=generator).float()
    return logits * temperature, torch.multinomial(shares, 1, generator=generator)[:, 0]


@pytest.mark.parametrize("task", [ONE, SEVERAL])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_at_comes_back(task: Task, temperature: float) -> None:
    assert fit_temperature(task, *drawn(task, 20_000, temperature)) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("task", [ONE, SEVERAL])
def test_it_is_the_one_that_scipy_finds(task: Task) -> None:
    logits, label = drawn(task, 300, 2.5)

    def loss(sharpness: float) -> float:
        return float(task.loss(logits.double() * sharpness, label.double() if label.ndim == 2 else label))

    best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9}).x
    assert fit_temperature(task, logits, label) == pytest.approx(1 / best, rel=1e-5)


@pytest.mark.parametrize("task", [ONE, SEVERAL])
def test_slopes_are_those_of_the_loss(task: Task) -> None:
    logits, label = drawn(task, 40, 1.5)
    label = label.double() if label.ndim == 2 else label
    sharpness = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(task.loss(logits.double() * sharpness, label), sharpness, create_graph=True)
    (second,) = torch.autograd.grad(first, sharpness)
    assert task.sharpness_slopes(logits, label, 0.7) == pytest.approx((first.item(), second.item()), rel=1e-9)


def test_answers_that_are_all_right_have_no_temperature() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0]]).repeat(60, 1)
    calibration = fit(ONE, logits, torch.zeros(60, dtype=torch.int64))
    assert calibration.temperature == 1
    assert calibration.reason == "the 60 validation images determine no temperature between 0.05 and 20"


def test_few_images_have_none_and_say_how_few() -> None:
    logits, label = drawn(ONE, 49, 2.0)
    calibration = fit(ONE, logits, label)
    assert (calibration.temperature, calibration.images) == (1, 0)
    assert calibration.reason == "49 validation images are fewer than 50"
    assert fit(ONE, *drawn(ONE, 50, 2.0)).images == 50


def test_a_temperature_within_chance_of_one_is_left_at_one() -> None:
    """Of 100 logits at 0.75 of which 75, 76, … are right: one or two more are no reason, ten are."""
    logits = torch.tensor([[np.log(3.0), 0.0]]).repeat(100, 1)

    def fitted(right: int) -> Calibration:
        return fit(SingleLabel(("a", "b")), logits, (torch.arange(100) >= right).long())

    assert [fitted(right).temperature == 1 for right in (75, 78, 85)] == [True, True, False]
    assert "within chance of 1" in str(fitted(78).reason)


def test_numbers_have_none() -> None:
    task = Regression.learnt(("x",), [[1.0], [2.0]])
    assert fit_temperature(task, torch.zeros(60, 1), torch.zeros(60, 1)) is None


def test_errors_before_and_after_by_hand() -> None:
    """100 images with probability 0.9 of the right class for 75 of them: at the best temperature it is 0.75."""
    logits = torch.tensor([[np.log(0.9), np.log(0.1)]]).repeat(100, 1)
    label = (torch.arange(100) >= 75).long()
    calibration = calibrate(SingleLabel(("a", "b")), {"val": (logits, label)})
    assert calibration.temperature == pytest.approx(np.log(9) / np.log(3), rel=1e-6)
    error = calibration.ece["val"]
    assert error == {"before": pytest.approx(0.15, abs=1e-6), "after": pytest.approx(0, abs=1e-6), "chance": ANY}
    # One bin holds all: the mean distance of 100 draws at 0.75 from their mean, sqrt(2 p q / (pi n)).
    assert error["chance"] == pytest.approx(np.sqrt(2 * 0.75 * 0.25 / (np.pi * 100)), rel=0.2)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert calibration.nll["val"]["after"] == pytest.approx(entropy, rel=1e-6)
    assert calibration.nll["val"]["before"] == pytest.approx(-(0.75 * np.log(0.9) + 0.25 * np.log(0.1)), rel=1e-6)


def test_an_answer_that_is_no_number_is_not_calibrated() -> None:
    logits, label = drawn(ONE, 60, 2.0)
    logits[3] = torch.nan
    calibration = calibrate(ONE, {"val": (logits, label), "test": (logits[10:], label[10:])})
    assert calibration.reason == "some answers to validation images are not finite"
    assert set(calibration.ece) == {"test"}


def test_the_error_of_several_labels_is_that_of_each_yes_or_no() -> None:
    answers = np.array([[0.8, 0.2]] * 10)
    truth = np.array([[1.0, 0.0]] * 5 + [[0.0, 0.0]] * 5)
    # 0.8 sure of 20 answers, of which 15 are right
    assert calibration_error(answers, truth, TaskKind.multi_label) == pytest.approx(0.05)


@pytest.mark.parametrize("task", [ONE, SEVERAL])
def test_the_report_finds_the_plain_probabilities_again(task: Task) -> None:
    logits, _ = drawn(task, 20, 1.0)
    calibrated = task.with_temperature(2.5).answers(logits).double().numpy()
    np.testing.assert_allclose(uncalibrated(calibrated, 2.5, task.kind), task.answers(logits).numpy(), rtol=2e-4)


@pytest.fixture(scope="module")
def calibrated_model(tmp_path_factory: pytest.TempPathFactory, build_small: Callable, export_network: Callable) -> Path:
    from graft.config.schema import Library

    record = Calibration(
        temperature=2.0, images=100, reason=None, ece={"val": {"before": 0.2, "after": 0.1, "chance": 0.08}}
    ).record()
    built = build_small(Library.timm, "test_efficientnet")
    return export_network(tmp_path_factory.mktemp("calibrated") / "model", built, calibration=record)


def test_a_calibrated_model_divides_its_logits_everywhere(calibrated_model: Path, pictures: Path) -> None:
    model = graft.load(calibrated_model)
    with torch.no_grad():
        logits = model(model.preprocess(pictures / "0.png")[None])
    expected = (logits / 2).softmax(1)
    torch.testing.assert_close(model.answers(logits), expected)  # pyright: ignore[reportCallIssue]
    (answer,) = predict(calibrated_model, [str(pictures / "0.png")])
    assert answer.values == pytest.approx(expected[0].tolist(), abs=1e-6)
    card = (calibrated_model / "README.md").read_text()
    assert "divides the logits by 2," in card
    assert "| val | 0.200 | 0.100 | 0.080 |" in card


def test_an_export_says_the_temperature_that_its_logits_need(calibrated_model: Path, graft: Callable) -> None:
    output = calibrated_model.parent / "model.pt2"
    assert graft("export", calibrated_model, "--format", "torch-export", "--output", output)[0] == 0
    record = json.loads(output.with_name("model.pt2.json").read_text())
    assert record["calibration"]["temperature"] == 2.0


@pytest.mark.parametrize("temperature", [0, -1, "hot", "nan", "inf"])
def test_a_temperature_that_is_none_is_refused(calibrated_model: Path, tmp_path: Path, temperature: object) -> None:
    for file in calibrated_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    record = json.loads((tmp_path / "model.json").read_text())
    record["calibration"]["temperature"] = temperature
    (tmp_path / "model.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="try exporting the model again"):
        open_model(tmp_path)
