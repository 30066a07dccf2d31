"""Reliability diagrams: confidence against accuracy, before and after calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graft.config.choices import TaskKind
from graft.page import figures
from graft.page.elements import Html, element, figure, section
from graft.report.record import RunRecord
from graft.results.calibration import reliability_of
from graft.results.predictions import Predictions
from graft.tasks.evaluate import Floats

TINY = 1e-300


def confidence(record: RunRecord) -> Html:
    """Reliability diagrams of the judged part. Empty for regression, and if an answer is not finite."""
    predictions = record.predictions.get(record.judged)
    if record.task is TaskKind.regression or predictions is None or not len(predictions.paths):
        return Html("")
    if not np.isfinite(predictions.answers_NK).all():
        return Html("")
    calibration: Mapping[str, Any] = record.model.get("calibration") or {}
    temperature = float(calibration.get("temperature", 1.0))
    charts = [_diagram(predictions, predictions.answers_NK, "Reliability")]
    if temperature != 1:
        before_NK = uncalibrated(predictions.answers_NK, temperature, predictions.task)
        charts = [
            _diagram(predictions, before_NK, "Reliability of the plain logits"),
            _diagram(predictions, predictions.answers_NK, f"Reliability at temperature {temperature:.3g}"),
        ]
    return section(
        "Confidence",
        element("p", _opening(calibration, temperature), class_="muted"),
        element("div", *charts, class_="pair"),
    )


def uncalibrated(answers_NK: Floats, temperature: float, task: TaskKind) -> Floats:
    """The probabilities [N, K] at temperature 1, from those at this temperature."""
    if task is TaskKind.multi_label:
        yes_NK, no_NK = np.maximum(answers_NK, TINY) ** temperature, np.maximum(1 - answers_NK, TINY) ** temperature
        return yes_NK / (yes_NK + no_NK)
    logits_NK = temperature * np.log(np.maximum(answers_NK, TINY))
    shares_NK = np.exp(logits_NK - logits_NK.max(1, keepdims=True))
    return shares_NK / shares_NK.sum(1, keepdims=True)


def _opening(calibration: Mapping[str, Any], temperature: float) -> str:
    if not calibration:
        return "Probabilities are the network's own: this run was not calibrated."
    if calibration.get("reason"):
        return f"Probabilities are the network's own, not calibrated: {calibration['reason']}."
    return (
        f"Logits are divided by {temperature:.4g}, the temperature at which the {calibration.get('images', 0):,}"
        " validation images are likeliest. It changes how sure an answer is, and never which class is likeliest."
    )


def _diagram(predictions: Predictions, answers_NK: Floats, title: str) -> Html:
    bins = reliability_of(answers_NK, predictions.truth, predictions.task)
    answers = int(bins.count.sum())
    filled = bins.count > 0
    gap = float(((bins.confidence - bins.accuracy) * bins.count)[filled].sum() / answers)
    leaning = "over-confident" if gap > 0 else "under-confident"
    caption = (
        f"{predictions.part}: expected calibration error {bins.error:.3f} in {len(bins.count)} bins of equal width. On"
        f" average {leaning} by {abs(100 * gap):.1f} points. Dashed: confidence equals accuracy."
    )
    chart = figures.reliability_diagram(bins.edges, bins.accuracy, bins.count, f"{title}. {caption}")
    return figure(title, chart, caption)
