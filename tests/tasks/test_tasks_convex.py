"""A solver minimises what training by steps does: each criterion's value and gradient, on all images at once."""

from functools import partial

import pytest
import torch

from graft.config.choices import ClassWeights, RegressionLoss
from graft.config.schema import LossConfig
from graft.tasks.convex import SmoothL1, Squared
from graft.tasks.multi_label import MultiLabel
from graft.tasks.regression import Regression
from graft.tasks.single_label import SingleLabel
from graft.tasks.task import Criterion

OUTPUTS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
CLASSES = torch.tensor([0, 1, 2, 2, 2, 1])
SHARES = torch.tensor([[0.2, 0.3, 0.5]] * 6, dtype=torch.float64)
LABELS = torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.float64)
NUMBERS = torch.tensor([[10.0, 1, 0], [20, 2, 5], [30, 9, 1], [12, 4, 4], [13, 2, 0], [50, 1, 9]], dtype=torch.float64)
BALANCED = ClassWeights.balanced


def single(**loss: object) -> Criterion:
    return SingleLabel(("a", "b", "c"), [1, 2, 3]).criterion(LossConfig(**loss))


def multi(**loss: object) -> Criterion:
    return MultiLabel(("a", "b", "c"), ([3, 3, 2], 6)).criterion(LossConfig(**loss))


def regression(kind: RegressionLoss) -> Criterion:
    task = Regression(("x", "y", "z"), NUMBERS.mean(0).tolist(), NUMBERS.std(0, correction=0).tolist())
    return task.criterion(LossConfig(regression=kind))


CASES = {
    "classes": (single(), CLASSES),
    "smoothed": (single(label_smoothing=0.2), CLASSES),
    "balanced": (single(class_weights=BALANCED), CLASSES),
    "balanced and smoothed": (single(class_weights=BALANCED, label_smoothing=0.1), CLASSES),
    "shares": (single(label_smoothing=0.1), SHARES),
    "balanced shares": (single(class_weights=BALANCED), SHARES),
    "labels": (multi(), LABELS),
    "smoothed labels": (multi(label_smoothing=0.2), LABELS),
    "balanced labels": (multi(class_weights=BALANCED), LABELS),
    "squared error": (regression(RegressionLoss.mse), NUMBERS),
    "smooth L1": (regression(RegressionLoss.smooth_l1), NUMBERS),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_the_criterions(name):
    criterion, target = CASES[name]
    outputs = OUTPUTS.clone().requires_grad_()
    expected = criterion(outputs, target)
    expected.backward()
    loss = criterion.convex(target, 3)
    assert float(loss.value(OUTPUTS)) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert torch.allclose(loss.gradient(OUTPUTS), outputs.grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_an_image_that_weighs_twice_counts_as_two(name):
    criterion, target = CASES[name]
    weighted = criterion.convex(target, 3, torch.tensor([2.0, 1, 1, 1, 1, 1]))
    twice = criterion.convex(torch.cat([target[:1], target]), 3)
    assert float(weighted.value(OUTPUTS)) == pytest.approx(float(twice.value(torch.cat([OUTPUTS[:1], OUTPUTS]))))


def of_rows(name):
    """What the solver minimises on these images, its rows and what they weigh."""
    criterion, target = CASES[name]
    return criterion.double().convex(target, 3)


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_some_rows_is_those_rows_of_the_gradient(name):
    loss, chosen = of_rows(name), slice(1, 4)
    part = loss.rows(chosen)
    assert torch.equal(part.gradient(OUTPUTS[chosen]), loss.gradient(OUTPUTS)[chosen])
    places = [slice(0, 1), chosen, slice(4, None)]
    shares = [float(loss.rows(place).value(OUTPUTS[place])) for place in places]
    assert sum(shares) == pytest.approx(float(loss.value(OUTPUTS)))
    assert (loss.outputs, part.outputs) == (3, 3)


WEIGHTS = torch.tensor([[1.0], [2], [3], [4], [5], [9]], dtype=torch.float64)


@pytest.mark.parametrize(("kind", "curvature"), [(Squared, 2), (partial(SmoothL1, beta=0.5), 1 / 0.5)])
def test_rows_of_numbers_may_weigh_more(kind, curvature):
    loss = kind(target_NK=NUMBERS, weight_N1=WEIGHTS, total=7.0)
    plain = kind(target_NK=NUMBERS, total=7.0)
    assert torch.allclose(loss.gradient(OUTPUTS), plain.gradient(OUTPUTS) * WEIGHTS)
    part = loss.rows(slice(2, 4))
    assert torch.equal(part.gradient(OUTPUTS[2:4]), loss.gradient(OUTPUTS)[2:4])
    assert float(part.value(OUTPUTS[2:4])) == pytest.approx(
        sum(float(plain.rows(slice(k, k + 1)).value(OUTPUTS[k : k + 1])) * float(WEIGHTS[k]) for k in (2, 3))
    )
    assert loss.curvature == pytest.approx(curvature * 24 / 7)
    assert plain.curvature == pytest.approx(curvature * 6 / 7)
    assert part.curvature == pytest.approx(curvature * 7 / 7)
