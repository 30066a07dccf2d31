"""Draws the metrics on the line between the donor's weights and the run's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from graft.config import figures
from graft.system.files import atomic_path


def draw(rows: Sequence[dict[str, float]], best: float, metric: figures.Figure, path: Path) -> None:
    """Plots the metric that chose alpha, and the validation loss, over alpha. A dotted line marks the choice.

    Args:
        rows: for each alpha, in ascending order, the metric and `loss` on the validation part.
        best: the alpha that was chosen.
        path: the PNG file to write.
    """
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.add_subplot()
    right = left.twinx()
    alphas = [row["alpha"] for row in rows]
    left.plot(alphas, [row[metric.name] for row in rows], color="#0b62a4", marker="o", label=metric.title)
    right.plot(alphas, [row["loss"] for row in rows], color="#b5511b", marker="s", linestyle="--", label="loss")
    left.axvline(best, color="#555555", linestyle=":")
    left.set_xlabel("alpha (0: the donor's weights, 1: the run's)")
    left.set_ylabel(f"validation {metric.title}")
    right.set_ylabel("validation loss")
    left.set_title(f"chosen on validation: alpha {best:g}", fontsize=10)
    figure.legend(loc="outside lower center", ncols=2)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
