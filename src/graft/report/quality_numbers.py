"""Errors of a regression: predicted over true values, and residuals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from graft.page.elements import Html, cell, element, figure, join, section, table
from graft.page.figures import INK, MUTED, SERIES, blank_axes, render
from graft.page.words import count
from graft.report.gallery import gallery
from graft.report.mistakes import MISTAKES
from graft.results.predictions import Predictions
from graft.tasks.evaluate import Floats
from graft.tasks.evaluate_numbers import number_figures

MOST_DRAWN = 4  # numbers that get plots; the table has all of them


def quality(predictions: Predictions, classes: Sequence[str]) -> Html:
    charts = [_drawings(predictions, name, k) for k, name in enumerate(classes[:MOST_DRAWN])]
    left = f" The first {MOST_DRAWN} are drawn." if len(classes) > MOST_DRAWN else ""
    return section(
        "Predicted and true",
        element("p", f"{count(len(predictions.paths), 'image')} of the {predictions.part} part.{left}"),
        element("div", _per_number(predictions, classes), class_="card"),
        *charts,
        gallery("Largest errors", predictions, MISTAKES[predictions.task].worst(predictions), classes),
    )


def _per_number(predictions: Predictions, classes: Sequence[str]) -> Html:
    errors = number_figures(predictions.answers_NK, predictions.truth)
    columns = (errors.mae, errors.rmse, errors.r2, errors.bias, errors.worst)
    rows = [[name, *(_number(float(values[k])) for values in columns)] for k, name in enumerate(classes)]
    headers = ["number", "MAE", "RMSE", "R²", "mean error", "largest error"]
    return table(headers, rows, caption="Errors of each number", sortable=len(rows) > 1)


def _number(value: float) -> Html:
    return cell("–" if math.isnan(value) else f"{value:.4g}", sort=value)


def _drawings(predictions: Predictions, name: str, k: int) -> Html:
    true_N, predicted_N = predictions.truth[:, k], predictions.answers_NK[:, k]
    rest_N = predicted_N - true_N
    over, lines = "Dashed: predicted equals true.", f"Mean {rest_N.mean():+.3g}, standard deviation {rest_N.std():.3g}."
    points = scatter(true_N, predicted_N, f"Predicted over true {name}. {over}")
    charts = join((
        figure(f"Predicted over true: {name}", points, over),
        figure(f"Residuals: {name}", residuals(rest_N, f"Residuals of {name}. {lines}"), lines),
    ))  # fmt: skip
    return element("div", charts, class_="pair", style="margin-top:18px")


def scatter(true_N: Floats, predicted_N: Floats, label: str) -> str:
    """An SVG scatter plot, one point per image, with the diagonal of perfect prediction."""
    drawing, axes = blank_axes("true", "predicted", height=3.3)
    ends = [min(true_N.min(), predicted_N.min()), max(true_N.max(), predicted_N.max())]
    axes.plot(ends, ends, color=MUTED, linestyle="--", linewidth=1)
    axes.scatter(true_N, predicted_N, s=14, color=SERIES[0], alpha=0.5, linewidths=0)
    return render(drawing, label)


def residuals(rest_N: Floats, label: str) -> str:
    """An SVG histogram of the residuals."""
    drawing, axes = blank_axes("predicted − true", "images", height=3.3)
    reach = float(np.abs(rest_N).max()) or 1.0
    bins = int(np.clip(np.sqrt(len(rest_N)), 7, 41)) // 2 * 2 + 1  # odd, so that one bin is centred on 0
    axes.hist(rest_N, bins=bins, range=(-reach, reach), color=SERIES[0], alpha=0.85)
    axes.axvline(0, color=INK, linewidth=1)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    return render(drawing, label)
