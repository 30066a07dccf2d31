"""Which images are worth a look, and what is said of one, in each task."""

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
    """Of one image."""

    said: str
    """With probabilities."""
    truth: str
    sentence: str


class OneClass:
    def worst(self, said: Predictions) -> list[int]:
        """Rows whose likeliest class is wrong, the most confident first."""
        confidence_N = said.answers_NK.max(1)
        wrong = np.flatnonzero(said.answers_NK.argmax(1) != said.truth)
        return wrong[np.argsort(-confidence_N[wrong], kind="stable")][:MOST].tolist()

    def words(self, said: Predictions, row: int, names: Sequence[str]) -> Words:
        probabilities = said.answers_NK[row]
        true, best = int(said.truth[row]), int(probabilities.argmax())
        return Words(
            said=f"{names[best]} {probabilities[best]:.2f}",
            truth=f"labelled {names[true]} {probabilities[true]:.2f}" if true != best else "right",
            sentence=f"labelled {names[true]}, predicted {names[best]} {probabilities[best]:.2f}",
        )


class SeveralClasses:
    def worst(self, said: Predictions) -> list[int]:
        """Rows with a wrong label, the most confidently wrong first."""
        gap_N = np.abs(said.answers_NK - said.truth).max(1)
        wrong_NK = (said.answers_NK > THRESHOLD) != (said.truth > 0)
        wrong = np.flatnonzero(wrong_NK.any(1))
        return wrong[np.argsort(-gap_N[wrong], kind="stable")][:MOST].tolist()

    def words(self, said: Predictions, row: int, names: Sequence[str]) -> Words:
        probabilities, true = said.answers_NK[row], said.truth[row] > 0
        order = [int(k) for k in np.argsort(-probabilities, kind="stable") if probabilities[k] > THRESHOLD]
        right = ((probabilities > THRESHOLD) == true).all()
        labelled = ", ".join(names[int(k)] for k in np.flatnonzero(true)) or "nothing"
        return Words(
            said=", ".join(f"{names[k]} {probabilities[k]:.2f}" for k in order) or "nothing",
            truth="right" if right else f"labelled {labelled}",
            sentence=f"labelled {labelled}, predicted {', '.join(names[k] for k in order) or 'nothing'}",
        )


class Numbers:
    def worst(self, said: Predictions) -> list[int]:
        """Rows in falling order of their error, that of each number over its deviation."""
        errors_NK = np.abs(said.answers_NK - said.truth) / np.maximum(said.truth.std(0), np.finfo(np.float64).tiny)
        return np.argsort(-errors_NK.mean(1), kind="stable")[:MOST].tolist()

    def words(self, said: Predictions, row: int, names: Sequence[str]) -> Words:
        predicted, true = (", ".join(f"{value:.4g}" for value in each[row]) for each in (said.answers_NK, said.truth))
        return Words(
            said=predicted, truth=f"is {true}", sentence=f"{', '.join(names)}: is {true}, predicted {predicted}"
        )


MISTAKES: Mapping[TaskKind, OneClass | SeveralClasses | Numbers] = {
    TaskKind.single_label: OneClass(),
    TaskKind.multi_label: SeveralClasses(),
    TaskKind.regression: Numbers(),
}
