"""What it gets right and wrong where an image has any number of labels, label by label."""

from __future__ import annotations

from collections.abc import Sequence

from graft.page.elements import Html, cell, element, section, share, table
from graft.page.words import count
from graft.report.gallery import gallery
from graft.report.mistakes import MISTAKES
from graft.results.predictions import Predictions
from graft.tasks.evaluate_labels import THRESHOLD, label_figures


def quality(said: Predictions, classes: Sequence[str]) -> Html:
    wrong_NK = (said.answers_NK > THRESHOLD) != (said.truth > 0)
    images, faulty = len(said.paths), int(wrong_NK.any(1).sum())
    opening = (
        f"{count(int(wrong_NK.sum()), 'wrong label')}, said or left out, in {count(faulty, 'image')} of {images:,} of"
        f" the {said.part} part. A label counts as said where its probability is above {THRESHOLD:g}."
    )
    return section(
        "Right and wrong",
        element("p", opening),
        element("div", _per_label(said, classes), class_="card tall"),
        gallery("Most confident mistakes", said, MISTAKES[said.task].worst(said), classes),
    )


def _per_label(said: Predictions, classes: Sequence[str]) -> Html:
    found = label_figures(said.answers_NK, said.truth)
    shares = (found.precision, found.recall, found.f1, found.average_precision, found.auroc)
    rows = [
        [
            name,
            *(share(float(values[k])) for values in shares),
            *(cell(f"{number[k]:,}", sort=int(number[k])) for number in (found.support, found.said)),
        ]
        for k, name in enumerate(classes)
    ]
    headers = ["label", "precision", "recall", "F1", "average precision", "AUROC", "images", "said"]
    return table(headers, rows, caption="Per label", sortable=True)
