"""Right and wrong answers of a multi-label task, by label."""

from __future__ import annotations

from collections.abc import Sequence

from graft.page.elements import Html, cell, element, section, share, table
from graft.page.words import count
from graft.report.gallery import gallery
from graft.report.mistakes import MISTAKES
from graft.results.predictions import Predictions
from graft.tasks.evaluate_labels import THRESHOLD, label_figures


def quality(predictions: Predictions, classes: Sequence[str]) -> Html:
    wrong_NK = (predictions.answers_NK > THRESHOLD) != (predictions.truth > 0)
    images, faulty = len(predictions.paths), int(wrong_NK.any(1).sum())
    opening = (
        f"{count(int(wrong_NK.sum()), 'label')} wrongly predicted or missed, in {count(faulty, 'image')} of {images:,}"
        f" of the {predictions.part} part. A label counts as predicted if its probability is above {THRESHOLD:g}."
    )
    return section(
        "Right and wrong",
        element("p", opening),
        element("div", _per_label(predictions, classes), class_="card tall"),
        gallery("Most confident mistakes", predictions, MISTAKES[predictions.task].worst(predictions), classes),
    )


def _per_label(predictions: Predictions, classes: Sequence[str]) -> Html:
    scores = label_figures(predictions.answers_NK, predictions.truth)
    shares = (scores.precision, scores.recall, scores.f1, scores.average_precision, scores.auroc)
    rows = [
        [
            name,
            *(share(float(values[k])) for values in shares),
            *(cell(f"{number[k]:,}", sort=int(number[k])) for number in (scores.support, scores.positives)),
        ]
        for k, name in enumerate(classes)
    ]
    headers = ["label", "precision", "recall", "F1", "average precision", "AUROC", "images", "predicted"]
    return table(headers, rows, caption="Per label", sortable=True)
