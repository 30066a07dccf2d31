"""Each task's order of mistakes, the worst first, and its words for one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graft.config.choices import TaskKind
from graft.results.predictions import Predictions
from graft.tasks.evaluate_labels import THRESHOLD

MOST = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The words for one image."""

    answer: str
    """The prediction, with probabilities if the task has them."""
    truth: str
    sentence: str


class OneClass:
    def worst(self, predictions: Predictions) -> list[int]:
        """Rows whose likeliest class is wrong, the most confident first."""
        confidence_N = predictions.answers_NK.max(1)
        wrong = np.flatnonzero(predictions.answers_NK.argmax(1) != predictions.truth)
        return wrong[np.argsort(-confidence_N[wrong], kind="stable")][:MOST].tolist()

    def words(self, predictions: Predictions, row: int, names: Sequence[str]) -> Words:
        probabilities = predictions.answers_NK[row]
        true, best = int(predictions.truth[row]), int(probabilities.argmax())
        return Words(
            answer=f"{names[best]} {probabilities[best]:.2f}",
            truth=f"labelled {names[true]} {probabilities[true]:.2f}" if true != best else "right",
            sentence=f"labelled {names[true]}, predicted {names[best]} {probabilities[best]:.2f}",
        )


class SeveralClasses:
    def worst(self, predictions: Predictions) -> list[int]:
        """Rows with a wrong label, the most confidently wrong first."""
        gap_N = np.abs(predictions.answers_NK - predictions.truth).max(1)
        wrong_NK = (predictions.answers_NK > THRESHOLD) != (predictions.truth > 0)
        wrong = np.flatnonzero(wrong_NK.any(1))
        return wrong[np.argsort(-gap_N[wrong], kind="stable")][:MOST].tolist()

    def words(self, predictions: Predictions, row: int, names: Sequence[str]) -> Words:
        probabilities, true = predictions.answers_NK[row], predictions.truth[row] > 0
        order = [int(k) for k in np.argsort(-probabilities, kind="stable") if probabilities[k] > THRESHOLD]
        right = ((probabilities > THRESHOLD) == true).all()
        labelled = ", ".join(names[int(k)] for k in np.flatnonzero(true)) or "nothing"
        return Words(
            answer=", ".join(f"{names[k]} {probabilities[k]:.2f}" for k in order) or "nothing",
            truth="right" if right else f"labelled {labelled}",
            sentence=f"labelled {labelled}, predicted {', '.join(names[k] for k in order) or 'nothing'}",
        )


class Numbers:
    def worst(self, predictions: Predictions) -> list[int]:
        """Rows in descending order of error, each number's error being divided by its standard deviation."""
        errors_NK = np.abs(predictions.answers_NK - predictions.truth) / np.maximum(
            predictions.truth.std(0), np.finfo(np.float64).tiny
        )
        return np.argsort(-errors_NK.mean(1), kind="stable")[:MOST].tolist()

    def words(self, predictions: Predictions, row: int, names: Sequence[str]) -> Words:
        predicted, true = (
            ", ".join(f"{value:.4g}" for value in each[row]) for each in (predictions.answers_NK, predictions.truth)
        )
        return Words(
            answer=predicted, truth=f"is {true}", sentence=f"{', '.join(names)}: is {true}, predicted {predicted}"
        )


MISTAKES: Mapping[TaskKind, OneClass | SeveralClasses | Numbers] = {
    TaskKind.single_label: OneClass(),
    TaskKind.multi_label: SeveralClasses(),
    TaskKind.regression: Numbers(),
}
