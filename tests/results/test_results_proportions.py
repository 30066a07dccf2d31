"""Intervals of proportions: published values, what they cover, and that every figure's says where it comes from."""

import numpy as np
import pytest

from graft.config.choices import TaskKind
from graft.config.figures import FIGURES
from graft.results.intervals import interval_record, intervals, read_intervals
from graft.results.predictions import Predictions
from graft.results.proportions import mean_share, paired_difference_of_shares, wilson
from graft.results.resampling import bootstrap, interval, paired_difference


@pytest.mark.parametrize(
    ("hits", "images", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Statistics in Medicine 17, 857-872, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1),
    ],
)
def test_wilsons_interval_is_the_published_one(hits, images, low, high):
    assert wilson(hits / images, images, 0.95) == pytest.approx((low, high), abs=5e-5)
    right = np.arange(images) < hits
    answers = np.eye(2)[right.astype(int)]
    found = interval(answers, np.ones(images, dtype=np.int64), "accuracy")
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert (found.value, found.method, found.resamples) == (hits / images, "Wilson", 0)


def test_newcombes_interval_is_the_published_one():
    """Statistics in Medicine 17, 2635-2650: of 50 pairs 36 both, 12 the first alone, 2 the second alone."""
    first, second = (np.repeat(values, (36, 12, 2)) == 1 for values in ([1, 1, 0], [1, 0, 1]))
    assert paired_difference_of_shares(first, second, 0.95) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.05, 0.05), (0.3, 0.2, 0.2, 0.3), (0.9, 0.05, 0.02, 0.03)])
def test_newcombes_interval_holds_the_difference_as_often_as_it_says(shares):
    generator = np.random.default_rng(0)
    inside = 0
    for counts in generator.multinomial(60, shares, size=1500):
        first, second = (np.repeat(values, counts) == 1 for values in ([1, 1, 0, 0], [1, 0, 1, 0]))
        low, high = paired_difference_of_shares(first, second, 0.95)
        inside += low <= shares[1] - shares[2] <= high
    assert inside / 1500 > 0.935


@pytest.mark.parametrize("alike", [0.0, 0.7, 1.0])
def test_labels_of_an_image_count_as_many_as_they_are_independent(alike):
    """From as wide as of one answer an image to as narrow as of all of them, and never narrower than it may be."""
    generator = np.random.default_rng(1)
    images, labels, inside, widths = 60, 5, 0, []
    for _ in range(1000):
        common = generator.random((images, 1)) < 0.9
        own = generator.random((images, labels)) < 0.9
        shares = np.where(generator.random((images, labels)) < alike, common, own).mean(1)
        low, high = mean_share(shares, labels, 0.95)
        inside += low <= 0.9 <= high
        widths.append(high - low)
    assert inside / 1000 > 0.93
    most, least = (np.subtract(*wilson(0.9, answers, 0.95)[::-1]) for answers in (images, images * labels))
    assert least * 0.95 < np.mean(widths) < most * 1.05
    assert mean_share(np.ones(20), 5, 0.95) == wilson(1, 20, 0.95)
    assert mean_share(np.zeros(1), 5, 0.95) == wilson(0, 1, 0.95)


def perfect(task: TaskKind) -> tuple[np.ndarray, np.ndarray]:
    truth = np.arange(20) % 2
    one_hot = np.eye(2)[truth]
    return {
        TaskKind.single_label: (one_hot, truth),
        TaskKind.multi_label: (one_hot, one_hot),
        TaskKind.regression: (one_hot, one_hot),
    }[task]


@pytest.mark.parametrize("task", list(TaskKind))
def test_no_interval_collapses_where_everything_is_right(task):
    """Every resample of answers that are all right is all right: what resampling cannot tell has no interval."""
    answers, truth = perfect(task)
    found = intervals(answers, truth, task)
    known = {"accuracy", "label_accuracy"}
    assert set(found) == {figure.name for figure in FIGURES[task]}
    for name, each in found.items():
        assert each.method == ("Wilson" if name in known else "percentile bootstrap")
        assert np.isnan(each.low) == (name not in known), name
        assert name not in known or each.high - each.low > 0.1
    same = paired_difference(answers, answers, truth, FIGURES[task][0].name, task=task)
    assert same.value == 0
    assert (same.low < 0 < same.high) if same.method == "Newcombe" else np.isnan(same.low)


def test_a_run_that_is_right_where_its_control_is_wrong_gains_less_than_everything():
    answers, truth = perfect(TaskKind.single_label)
    found = paired_difference(answers, answers[:, ::-1], truth, "accuracy")
    assert (found.value, found.method) == (1.0, "Newcombe")
    assert 0.7 < found.low < 0.9
    assert found.high == 1.0


def test_what_is_written_down_says_its_method_and_comes_back():
    answers, truth = np.random.default_rng(0).dirichlet(np.ones(2), 30), np.arange(30) % 2
    said = Predictions(part="val", paths=tuple(map(str, range(30))), truth=truth, answers_NK=answers)
    written = interval_record([said])
    methods = {name: each["method"] for name, each in written.items()}
    others = dict.fromkeys(("val/f1", "val/auroc"), "percentile bootstrap")
    assert methods == {"val/accuracy": "Wilson", **others}
    assert read_intervals(written, said) == intervals(answers, truth)
    older = {"val/accuracy": {**written["val/accuracy"], "low": 0.0}}
    del older["val/accuracy"]["method"]
    assert read_intervals(older, said)["accuracy"].low == written["val/accuracy"]["low"]


def test_resampling_of_what_varies_is_as_it_was():
    answers, truth = np.random.default_rng(0).dirichlet(np.ones(3), 50), np.arange(50) % 3
    found = bootstrap(answers, truth, "f1", resamples=100)
    assert found.low < found.value < found.high
    assert (found.resamples, found.method) == (100, "percentile bootstrap")
