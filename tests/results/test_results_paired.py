"""Paired tests against scipy, and what is said of two runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from graft.config.choices import TaskKind
from graft.report.paired import comparisons
from graft.report.record import RunRecord
from graft.results.paired import compare, mcnemar
from graft.results.predictions import Predictions


def right(first_alone: int, second_alone: int, images: int = 200) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.ones(images, dtype=bool), np.ones(images, dtype=bool)
    second[:first_alone] = False
    first[first_alone : first_alone + second_alone] = False
    return first, second


@pytest.mark.parametrize("alone", [(0, 0), (5, 0), (0, 6), (10, 10), (25, 11), (3, 17), (60, 90)])
def test_mcnemar_is_the_exact_binomial_test(alone: tuple[int, int]) -> None:
    test = mcnemar(*right(*alone))
    assert (test.first_alone, test.second_alone) == alone
    expected = binomtest(alone[0], sum(alone), 0.5).pvalue if sum(alone) else 1.0
    assert test.p == pytest.approx(expected, rel=1e-12)


def test_five_to_none_is_no_proof_and_six_to_none_is() -> None:
    """2/2⁵ = 0.0625 and 2/2⁶ = 0.03125."""
    assert mcnemar(*right(5, 0)).p == 0.0625
    assert mcnemar(*right(6, 0)).p == 0.03125


def predictions(right_N: np.ndarray) -> Predictions:
    truth = np.arange(len(right_N)) % 2
    answers = np.eye(2)[np.where(right_N, truth, 1 - truth)] * 0.8 + 0.1
    return Predictions(part="test", paths=tuple(map(str, range(len(truth)))), truth=truth, answers_NK=answers)


def test_two_runs_are_compared_image_by_image() -> None:
    pair = compare(*map(predictions, right(25, 11)))
    assert pair is not None
    assert (pair.first, pair.second) == (pytest.approx(1 - 11 / 200), pytest.approx(1 - 25 / 200))
    assert pair.difference.value == pair.bootstrap.value == pytest.approx(0.07)
    assert not pair.could_be_chance
    # Of 200 differences of +1 (25), -1 (11) and 0, the mean's normal interval, which the bootstrap comes near.
    error = 1.96 * np.sqrt((36 / 200 - 0.07**2) / 200)
    assert pair.bootstrap.low == pytest.approx(0.07 - error, abs=0.01)
    assert pair.bootstrap.high == pytest.approx(0.07 + error, abs=0.01)
    sentence = pair.sentence(("a", "b"))
    assert sentence.startswith("test accuracy of a minus that of b: +7.0 points on 200 images (95 % interval +")
    assert "25 images right in it alone, 11 in the other alone, McNemar's exact p 0.029" in sentence
    assert sentence.endswith("this is more than chance.")


def test_a_difference_that_could_be_chance_says_so() -> None:
    pair = compare(*map(predictions, right(12, 10)))
    assert pair is not None
    assert pair.sentence(("a", "b")).endswith("this could be chance.")


def test_numbers_go_by_the_interval() -> None:
    truth = np.linspace(0, 1, 40)[:, None]
    noise = np.random.default_rng(0).normal(0, 0.1, (40, 1))
    first = Predictions(
        part="val", paths=tuple(map(str, range(40))), truth=truth, answers_NK=truth + noise, task=TaskKind.regression
    )
    pair = compare(first, replace(first, answers_NK=truth + 3 * noise))
    assert pair is not None
    assert pair.test is None
    assert pair.difference.value == pytest.approx(-2 * np.abs(noise).mean())
    assert not pair.could_be_chance


def test_other_images_are_not_compared(tmp_path) -> None:
    first, second = map(predictions, right(5, 0))
    second = replace(second, paths=tuple(f"x{path}" for path in second.paths))
    assert compare(first, second) is None
    records = [RunRecord(folder=tmp_path, predictions={"test": each}) for each in (first, second)]
    assert comparisons(records) == []
    assert len(comparisons([records[0], records[0]])) == 1
    assert comparisons(records[:1]) == []
