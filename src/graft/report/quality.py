"""Right and wrong answers of a single-label task, and the calibration error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graft.page import figures
from graft.page.elements import Html, cell, element, figure, section, share, table, tile
from graft.page.words import count, percent
from graft.report.gallery import gallery
from graft.report.mistakes import MISTAKES, MOST
from graft.results.predictions import Predictions
from graft.tasks.evaluate import Ints, class_figures, confusion_matrix, reliability

TABLE_CLASSES = 12
MOST_CONFUSED = 15


def quality(predictions: Predictions, classes: Sequence[str]) -> Html:
    confusion_KK = confusion_matrix(predictions.answers_NK, predictions.truth)
    wrong = len(predictions.paths) - int(np.trace(confusion_KK))
    opening = f"{count(wrong, 'mistake')} in {count(len(predictions.paths), 'image')} of the {predictions.part} part."
    return section(
        "Right and wrong",
        element("p", opening),
        element("div", _confusion(confusion_KK, classes), _per_class(confusion_KK, classes), class_="pair"),
        gallery("Most confident mistakes", predictions, MISTAKES[predictions.task].worst(predictions), classes),
        gallery("Least certain images", predictions, uncertain(predictions), classes),
    )


def tiles(predictions: Predictions) -> list[Html]:
    error = reliability(predictions.answers_NK, predictions.truth).error
    return [tile(f"{predictions.part} ECE", f"{error:.3f}", "calibration error; 0 is perfect")]


def uncertain(predictions: Predictions) -> list[int]:
    """Rows in ascending order of the margin between the two likeliest classes."""
    if predictions.answers_NK.shape[1] < 2:
        return []
    ordered_NK = np.sort(predictions.answers_NK, axis=1)
    return np.argsort(ordered_NK[:, -1] - ordered_NK[:, -2], kind="stable")[:MOST].tolist()


def _confusion(confusion_KK: Ints, classes: Sequence[str]) -> Html:
    if len(classes) > TABLE_CLASSES:
        chart = figures.heat(
            confusion_KK, f"Confusion matrix of {len(classes)} classes, true by rows, predicted by columns."
        )
        return element(
            "div", figure("Confusion matrix", chart), _most_confused(confusion_KK, classes), class_="stacked"
        )
    shares = confusion_KK / np.maximum(confusion_KK.sum(1, keepdims=True), 1)
    rows = [
        [name, *(_heat(int(confusion_KK[i, j]), float(shares[i, j]), i == j) for j in range(len(classes)))]
        for i, name in enumerate(classes)
    ]
    return element("div", table(["true \\ predicted", *classes], rows, caption="Confusion matrix"), class_="card")


def _heat(number: int, share: float, hit: bool) -> Html:
    colour = "var(--c3)" if hit else "var(--c2)"
    shade = f"background:color-mix(in srgb, {colour} {100 * share**0.7 * 0.5:.0f}%, transparent)" if number else None
    return cell(f"{number:,}", style=shade, class_="heat hit" if hit else "heat")


def _most_confused(confusion_KK: Ints, classes: Sequence[str]) -> Html:
    wrong_KK = confusion_KK - np.diag(np.diag(confusion_KK))
    order = np.argsort(-wrong_KK, axis=None, kind="stable")[:MOST_CONFUSED]
    pairs = [divmod(int(place), len(classes)) for place in order if wrong_KK.flat[place] > 0]
    rows = [
        [
            classes[true],
            classes[guess],
            int(wrong_KK[true, guess]),
            percent(wrong_KK[true, guess] / confusion_KK[true].sum()),
        ]
        for true, guess in pairs
    ]
    if not rows:
        return Html("")
    listed = table(["true", "predicted", "images", "of the class"], rows, caption="Most confused pairs")
    return element("div", listed, class_="card")


def _per_class(confusion_KK: Ints, classes: Sequence[str]) -> Html:
    scores = class_figures(confusion_KK)
    rows = [
        [
            name,
            *(share(float(values[k])) for values in (scores.precision, scores.recall, scores.f1)),
            *(cell(f"{number[k]:,}", sort=int(number[k])) for number in (scores.support, scores.predicted)),
        ]
        for k, name in enumerate(classes)
    ]
    headers = ["class", "precision", "recall", "F1", "images", "predicted"]
    listed = table(headers, rows, caption="Per class", sortable=True)
    return element("div", listed, class_="card tall")
