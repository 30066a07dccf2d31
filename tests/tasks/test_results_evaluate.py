"""Metrics against values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_auroc, multiclass_calibration_error, multiclass_f1_score

from graft.results.resampling import bootstrap
from graft.tasks.evaluate import accuracy, auroc, class_figures, confusion_matrix, macro_f1, reliability

PROBABILITIES = np.array(
    [[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.2, 0.7, 0.1], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.3, 0.4, 0.3]]
)
TARGETS = np.array([0, 0, 1, 1, 2, 2])  # said: 0 0 1 0 2 1


def random_case(images: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(classes), size=images).round(2)  # rounding makes ties
    return probabilities, generator.integers(0, classes, images)


def test_confusion_has_a_row_per_true_class():
    assert confusion_matrix(PROBABILITIES, TARGETS).tolist() == [[2, 0, 0], [1, 1, 0], [0, 1, 1]]


def test_accuracy():
    assert accuracy(PROBABILITIES, TARGETS) == pytest.approx(4 / 6)
    assert math.isnan(accuracy(np.empty((0, 3)), np.empty(0, dtype=np.int64)))


def test_class_figures():
    figures = class_figures(confusion_matrix(PROBABILITIES, TARGETS))
    assert figures.precision == pytest.approx([2 / 3, 1 / 2, 1])
    assert figures.recall == pytest.approx([1, 1 / 2, 1 / 2])
    assert figures.f1 == pytest.approx([4 / 5, 1 / 2, 2 / 3])
    assert figures.support.tolist() == [2, 2, 2]
    assert macro_f1(PROBABILITIES, TARGETS) == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)


@pytest.mark.parametrize("said", [[0, 1], [0, 2]], ids=["never said", "said wrongly"])
def test_macro_f1_leaves_out_a_class_that_has_no_image(said):
    targets = np.array([0, 1])
    probabilities = np.eye(3)[said]
    figures = class_figures(confusion_matrix(probabilities, targets))
    hit = float(said[1] == 1)
    assert macro_f1(probabilities, targets) == (1 + hit) / 2
    assert figures.f1[:2].tolist() == [1.0, hit]
    assert figures.recall[:2].tolist() == [1.0, hit]
    assert np.isnan([figures.f1[2], figures.recall[2]]).all()
    assert np.isnan(figures.precision).tolist() == [place not in said for place in range(3)]


def test_auroc_leaves_out_a_class_that_has_no_image():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.5, 0.3]])
    assert auroc(probabilities, np.array([0, 0, 1])) == 1.0


def test_auroc_counts_ordered_pairs_and_half_of_ties():
    scores = np.array([0.1, 0.4, 0.4, 0.8])
    probabilities = np.stack([1 - scores, scores], 1)
    # positives 0.4 and 0.8 against negatives 0.1 and 0.4: 1, 1/2, 1, 1 of four pairs
    assert auroc(probabilities, np.array([0, 0, 1, 1])) == pytest.approx(3.5 / 4)
    assert math.isnan(auroc(probabilities, np.array([1, 1, 1, 1])))


@pytest.mark.parametrize(("images", "classes"), [(40, 3), (200, 5)])
def test_agreement_with_torchmetrics(images: int, classes: int):
    probabilities, targets = random_case(images, classes, seed=1)
    said, true = torch.tensor(probabilities), torch.tensor(targets)
    assert auroc(probabilities, targets) == pytest.approx(float(multiclass_auroc(said, true, classes)), abs=1e-6)
    assert macro_f1(probabilities, targets) == pytest.approx(
        float(multiclass_f1_score(said, true, classes, average="macro")), abs=1e-6
    )
    assert reliability(probabilities, targets).error == pytest.approx(
        float(multiclass_calibration_error(said, true, classes, n_bins=15)), abs=0.02
    )


def test_reliability_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.9, 0.1], [0.4, 0.6], [0.35, 0.65]])
    found = reliability(probabilities, np.array([0, 1, 1, 1]), bins=5)
    # bin (0.8, 1]: confidence 0.925, accuracy 1/2; bin (0.6, 0.8]: 0.65 and 1; bin (0.4, 0.6]: 0.6 and 1
    assert found.count.tolist() == [0, 0, 1, 1, 2]
    assert found.confidence[2:] == pytest.approx([0.6, 0.65, 0.925])
    assert found.accuracy[2:] == pytest.approx([1, 1, 0.5])
    assert np.isnan(found.accuracy[:2]).all()
    assert found.error == pytest.approx((0.4 + 0.35 + 2 * 0.425) / 4)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "auroc"])
def test_bootstrap_holds_the_value_and_repeats(metric: str):
    probabilities, targets = random_case(150, 3, seed=2)
    first = bootstrap(probabilities, targets, metric, resamples=300, seed=5)
    assert first == bootstrap(probabilities, targets, metric, resamples=300, seed=5)
    assert first != bootstrap(probabilities, targets, metric, resamples=300, seed=6)
    assert first.low < first.value < first.high
    plain = {"accuracy": accuracy, "f1": macro_f1, "auroc": auroc}[metric](probabilities, targets)
    assert first.value == pytest.approx(plain)


@pytest.mark.parametrize(("metric", "plain"), [("accuracy", accuracy), ("f1", macro_f1), ("auroc", auroc)])
def test_bootstrap_equals_recomputing_on_drawn_images(metric, plain):
    probabilities, targets = random_case(30, 3, seed=3)
    draws = np.random.default_rng(9).integers(0, 30, size=(200, 30))
    expected = np.quantile([plain(probabilities[rows], targets[rows]) for rows in draws], [0.025, 0.975])
    found = bootstrap(probabilities, targets, metric, resamples=200, seed=9)
    assert [found.low, found.high] == pytest.approx(expected)


def test_bootstrap_interval_has_the_binomial_width():
    targets = np.zeros(400, dtype=np.int64)
    said = np.zeros(400, dtype=np.int64)
    said[:80] = 1
    found = bootstrap(np.eye(2)[said], targets, "accuracy", resamples=2000)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert found.value == 0.8
    assert [found.low, found.high] == pytest.approx([0.8 - half, 0.8 + half], abs=0.008)


def test_bootstrap_of_nothing():
    found = bootstrap(np.empty((0, 2)), np.empty(0, dtype=np.int64), "accuracy")
    assert math.isnan(found.value)
    assert found.resamples == 0
