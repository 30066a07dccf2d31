"""Thresholds by hand: by sensitivity, by cost, and applied where a model answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graft.config.faults import InputError
from graft.config.schema import Library
from graft.inference.classify import predict
from graft.inference.load import open_model
from graft.results.predictions import Predictions
from graft.results.proportions import wilson
from graft.results.threshold import by_cost, by_sensitivity, choose_threshold, outcomes, positive_class, read_threshold

SCORES = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
HOLDS = np.array([False, True, False, False, True, False, True, True])


@pytest.mark.parametrize(("least", "expected"), [(0.5, 0.75), (0.51, 0.5), (0.75, 0.5), (0.76, 0.15), (1.0, 0.15)])
def test_the_highest_threshold_that_finds_enough(least: float, expected: float) -> None:
    assert by_sensitivity(SCORES, HOLDS, least) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (1.0, 0.5),  # one miss and one false alarm, from 0.4 to 0.6, where 1/(1 + 1) lies
        (0.1, 0.75),  # two misses and no false alarm, from 0.7 to 0.8; 1/(1 + 0.1) lies above
        (10.0, 0.15),  # all are found, at three false alarms
    ],
)
def test_the_cheapest_threshold(cost: float, expected: float) -> None:
    best = by_cost(SCORES, HOLDS, cost)
    assert best == pytest.approx(expected)

    def price(threshold: float) -> float:
        named = threshold <= SCORES
        return cost * (HOLDS & ~named).sum() + (named & ~HOLDS).sum()

    assert price(best) == min(price(threshold) for threshold in np.linspace(0, 1, 201))


def test_what_a_threshold_comes_to() -> None:
    counts = outcomes(SCORES, HOLDS, 0.5, cost=10)
    assert [counts[name] for name in ("hits", "misses", "false_alarms", "rejections")] == [3, 1, 1, 3]
    assert counts["sensitivity"] == 0.75
    assert counts["specificity_interval"] == pytest.approx(list(wilson(0.75, 4, 0.95)))
    assert counts["cost"] == pytest.approx(11 / 8)


def test_it_is_chosen_on_val_and_counted_on_test() -> None:
    def part(name: str) -> Predictions:
        answers = np.stack([1 - SCORES, SCORES], axis=1)
        return Predictions(part=name, paths=("",) * 8, truth=HOLDS.astype(np.int64), answers_NK=answers)

    val = part("val")
    test = replace(part("test"), truth=1 - val.truth)
    threshold = choose_threshold(val, ("well", "ill"), "ill", 0.75, None)
    record = threshold.record({"val": val, "test": test}, ("well", "ill"))
    assert record["parts"]["val"]["sensitivity"] == 0.75
    assert record["parts"]["test"]["sensitivity"] == 0.25
    assert read_threshold({"threshold": record, "classes": ["well", "ill"]}) == threshold
    with pytest.raises(InputError, match=r"try results.cost"):
        choose_threshold(replace(val, truth=np.zeros(8, dtype=np.int64)), ("well", "ill"), "ill", 0.9, None)


def test_a_threshold_needs_two_classes_and_one_of_them() -> None:
    assert positive_class(("a", "b"), None, "results.cost") == 1
    assert positive_class(("a", "b"), "a", "results.cost") == 0
    with pytest.raises(InputError, match=r"results.cost: expected data of two classes, received 3"):
        positive_class(("a", "b", "c"), None, "results.cost")
    with pytest.raises(InputError, match=r"try results.positive=b"):
        positive_class(("a", "b"), "c", "results.cost")


@pytest.mark.parametrize("stored", [{}, {"positive": "d", "probability": 0.5, "sensitivity": None, "cost": 1}, 0.5])
def test_a_record_of_another_form_is_refused(stored: object) -> None:
    with pytest.raises(InputError, match=r"try exporting the model again"):
        read_threshold({"threshold": stored, "classes": ["a", "b"]})


@pytest.mark.parametrize(("probability", "named"), [(0.0, 1), (1.0, 0)])
def test_predict_names_the_class_by_it(
    tmp_path: Path, build_small: Callable, export_network: Callable, pictures: Path, probability: float, named: int
) -> None:
    record = {"positive": "bee", "probability": probability, "sensitivity": 0.9, "cost": None, "parts": {}}
    folder = export_network(tmp_path / "model", build_small(Library.timm, "test_efficientnet"))
    opened = open_model(folder)
    opened = replace(opened, record={**opened.record, "threshold": record})
    for answer in predict(opened, [str(pictures / "0.png"), str(pictures / "1.png")]):
        assert (answer.top[0][0] == "bee") == bool(named)
        assert answer.top[0][1] == answer.values[opened.classes.index(answer.top[0][0])]
