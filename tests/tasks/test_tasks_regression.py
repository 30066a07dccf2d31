"""data.task=regression: errors of standardised numbers, figures in the numbers' own units."""

import numpy as np
import pytest
import torch

from graft.config.choices import RegressionLoss, TaskKind
from graft.config.faults import InputError
from graft.config.schema import LossConfig
from graft.finetune.metrics import Evaluation
from graft.results.resampling import bootstrap, figures
from graft.tasks.evaluate_numbers import number_figures
from graft.tasks.registry import task_of, task_of_record
from graft.tasks.regression import Regression

NUMBERS = torch.tensor([[10.0, 0.1], [20.0, 0.3], [30.0, 0.2], [40.0, 0.6]])
OUTPUTS = torch.tensor([[-1.0, 0.0], [0.5, 0.5], [0.4, -0.5], [2.0, 3.0]])
TASK = task_of(TaskKind.regression, ["age", "share"], NUMBERS.tolist())
MEAN, STD = NUMBERS.mean(0), NUMBERS.std(0, correction=0)
GAPS = OUTPUTS - (NUMBERS - MEAN) / STD


def test_answers_are_in_the_numbers_units():
    torch.testing.assert_close(TASK.answers(OUTPUTS), OUTPUTS * STD + MEAN)
    torch.testing.assert_close(TASK.answers((NUMBERS - MEAN) / STD), NUMBERS)


@pytest.mark.parametrize("kind", list(RegressionLoss))
def test_the_error_is_of_standardised_numbers(kind):
    large = GAPS.abs() >= 1
    smooth = torch.where(large, GAPS.abs() - 0.5, GAPS**2 / 2).mean()
    expected = {RegressionLoss.mse: (GAPS**2).mean(), RegressionLoss.smooth_l1: smooth}[kind]
    assert large.any()
    torch.testing.assert_close(TASK.criterion(LossConfig(regression=kind))(OUTPUTS, NUMBERS), expected)
    torch.testing.assert_close(TASK.loss(OUTPUTS, NUMBERS), (GAPS**2).mean())


def test_the_figures_of_an_evaluation_are_the_means_over_the_numbers():
    evaluation = Evaluation("test", TASK)
    evaluation.keeps_outputs = True
    evaluation.reset("cpu")
    for cut in (slice(0, 3), slice(3, 4)):
        evaluation.update((GAPS**2).mean(), OUTPUTS[cut], NUMBERS[cut], torch.arange(4)[cut])
    off = GAPS * STD
    assert evaluation.figures(evaluation.sums) == pytest.approx({
        "test/loss": float((GAPS**2).mean()),
        "test/mae": float(off.abs().mean()),
        "test/rmse": float((off**2).mean(0).sqrt().mean()),
        "test/r2": float(1 - (GAPS**2).mean()),
    })  # fmt: skip
    assert evaluation.confusion() is None
    assert evaluation.outputs().label.equal(NUMBERS)
    assert float(TASK.scored(OUTPUTS, NUMBERS)) == pytest.approx(4 * float(off.abs().mean()))


def random_case(images=50):
    generator = np.random.default_rng(0)
    truth = generator.normal(size=(images, 2)) * [100, 0.01] + [1e4, 0]
    return truth + generator.normal(size=(images, 2)) * [30, 0.005], truth


def test_predictions_have_the_figures_that_training_has():
    said, truth = random_case()
    found, each = figures(said, truth, TaskKind.regression), number_figures(said, truth)
    for name, metric in Regression(["a", "b"], [0, 0], [1, 1]).metrics().items():
        metric.update(torch.tensor(said), torch.tensor(truth))
        assert found[name] == pytest.approx(float(metric.compute()), rel=1e-5), name
        assert found[name] == pytest.approx(getattr(each, name).mean())
    assert each.bias == pytest.approx((said - truth).mean(0))
    assert each.worst == pytest.approx(np.abs(said - truth).max(0))


@pytest.mark.parametrize("metric", ["mae", "rmse", "r2"])
def test_a_bootstrap_equals_recomputing_on_drawn_images(metric):
    said, truth = random_case(30)
    draws = np.random.default_rng(9).integers(0, 30, size=(100, 30))
    expected = [figures(said[rows], truth[rows], TaskKind.regression)[metric] for rows in draws]
    found = bootstrap(said, truth, metric, task=TaskKind.regression, resamples=100, seed=9)
    assert [found.low, found.high] == pytest.approx(np.quantile(expected, [0.025, 0.975]))


def test_r2_of_what_does_not_vary_is_undefined():
    assert np.isnan(figures(np.ones((3, 1)), np.full((3, 1), 7.0), TaskKind.regression)["r2"])


@pytest.mark.parametrize(("images", "defined"), [(50, 1), (1, 0)])
def test_numbers_that_do_not_vary_are_left_out_of_r2(images, defined):
    said, truth = random_case(images)
    truth[:, 0] = 0.1
    found = figures(said, truth, TaskKind.regression)["r2"]
    metric = Regression(["a", "b"], [0, 0], [1, 1]).metrics()["r2"]
    for rows in np.array_split(np.arange(images), min(images, 3)):
        metric.update(torch.tensor(said[rows]), torch.tensor(truth[rows]))
    assert float(metric.compute()) == pytest.approx(found, nan_ok=True)
    assert np.isnan(found) == (not defined)
    assert not defined or found == pytest.approx(figures(said[:, 1:], truth[:, 1:], TaskKind.regression)["r2"])


def test_r2_keeps_its_digits_where_the_numbers_are_large():
    said, truth = (torch.tensor(values + 1e6, dtype=torch.float32) for values in random_case())
    metric = Regression(["a", "b"], [1e6, 1e6], [1, 1]).metrics()["r2"]
    metric.update(said, truth)
    expected = figures(said.double().numpy(), truth.double().numpy(), TaskKind.regression)["r2"]
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-7, 1e7])
def test_r2_is_the_same_in_any_unit(scale):
    said, truth = random_case()
    expected = figures(said, truth, TaskKind.regression)["r2"]
    assert figures(said * scale, truth * scale, TaskKind.regression)["r2"] == pytest.approx(expected)


def test_it_comes_back_from_a_record_with_its_units():
    record = {"classes": ["age", "share"], "task": TASK.record()}
    torch.testing.assert_close(task_of_record(record).answers(OUTPUTS), TASK.answers(OUTPUTS))
    with pytest.raises(InputError, match="expected a task as graft writes it"):
        task_of_record({**record, "classes": ["age"]})


def test_a_deviation_is_that_of_the_images_there_are():
    record = Regression.learnt(("x", "y"), [(1.0, 5.0), (3.0, 5.0)]).record()
    assert (record["mean"], record["std"]) == ([2.0, 5.0], [1.0, 0.0])
