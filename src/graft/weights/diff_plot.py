"""The plot of `graft diff`: how far each tensor moved, in forward order, with one colour per stage."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from graft.page import figures
from graft.page.elements import document, element, figure, join, section, table
from graft.page.words import plot_text
from graft.system.files import atomic_path, write_text
from graft.weights.compare import Comparison, by_stage

if TYPE_CHECKING:
    from graft.weights.compare import Comparison

SIZE = (9.0, 4.2)  # inches


@dataclass(frozen=True, slots=True)
class Palette:
    ink: str
    muted: str
    line: str
    series: tuple[str, ...]


PAGE = Palette(figures.INK, figures.MUTED, figures.LINE, figures.SERIES)
"""Placeholders that the page replaces by its own colours, light or dark."""
PAPER = Palette("#1d211f", "#59625d", "#dcdfda", ("#2563b8", "#b8560b", "#27805a", "#7c4dbd", "#b02f6c", "#0b7a86"))


def write_plot(comparison: Comparison, path: Path) -> None:
    """Writes a picture or a page, by the file's suffix. The file appears only when it is complete."""
    match path.suffix.lower():
        case ".html":
            write_text(path, page(comparison))
        case ".svg":
            write_text(path, _svg(draw(comparison, PAPER)))
        case _:
            drawing = draw(comparison, PAPER)
            FigureCanvasAgg(drawing)
            with atomic_path(path) as temporary:
                drawing.savefig(temporary, format="png", dpi=150, facecolor="white", metadata={"Software": None})


def draw(comparison: Comparison, palette: Palette) -> Figure:
    """Plots each tensor's relative change and, below, 1 - cosine of the angle between its two values."""
    drawing = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasSVG(drawing)
    axes: Any = drawing.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    places = {row.name: place for place, row in enumerate(comparison.tensors)}
    for index, (stage, rows) in enumerate(by_stage(comparison.tensors).items()):
        colour = palette.series[index % len(palette.series)]
        shown = [row for row in rows if row.change is not None]
        turned = [row for row in rows if row.cosine is not None]
        changes, turns = [row.change or 0.0 for row in shown], [1.0 - (row.cosine or 0.0) for row in turned]
        axes[0].bar([places[row.name] for row in shown], changes, 0.85, color=colour, label=plot_text(stage))
        axes[1].bar([places[row.name] for row in turned], turns, 0.85, color=colour)
    for each, label in zip(axes, ("change", "1 - cosine"), strict=True):
        each.set_ylabel(label, color=palette.muted)
        each.tick_params(colors=palette.muted, labelcolor=palette.ink, length=0)
        each.grid(visible=True, axis="y", color=palette.line, linewidth=0.7)
        each.set_axisbelow(True)
        each.patch.set_visible(False)
        for side, spine in each.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(palette.line)
    axes[1].set_xlabel("tensors, in forward order", color=palette.muted)
    if comparison.tensors:
        drawing.legend(loc="outside upper left", ncols=8, frameon=False, labelcolor=palette.ink)
    return drawing


def page(comparison: Comparison) -> str:
    """A self-contained HTML page with the plot and tables of stages and tensors."""
    label = "How far each tensor moved"
    stages = [
        [
            row.stage,
            number(row.change),
            "" if row.cosine is None else f"{row.cosine:.6f}",
            f"{row.moved} of {row.tensors}",
        ]
        for row in comparison.stages
    ]
    tensors = [[row.name, row.stage, number(row.change), cosine(row.cosine), row.note] for row in comparison.tensors]
    alone = [[name, "first"] for name in comparison.only_first] + [[name, "second"] for name in comparison.only_second]
    lead = join(element("p", f"{which}: {side['source']}, sha256 {side['sha256']}", class_="muted")
                for which, side in (("First", comparison.first), ("Second", comparison.second)))  # fmt: skip
    return document(
        "Weights compared",
        lead,
        section(
            "Changes", figure(label, figures.render(draw(comparison, PAGE), label), "|second - first| / |first|, L2")
        ),
        section("Stages", table(["stage", "change", "cosine", "tensors that moved"], stages, caption="By stage")),
        section("Tensors", table(["tensor", "stage", "change", "cosine", "note"], tensors, caption="Every tensor")),
        section("On one side only", table(["tensor", "side"], alone, caption="Without a partner", numbers=False))
        if alone
        else "",
    )


def _svg(drawing: Figure) -> str:
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "graft diff"}):
        drawing.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def number(change: float | None) -> str:
    """Three significant digits. Only an exact zero is shown as 0."""
    return "" if change is None else "0" if change == 0 else f"{change:.3g}"


def cosine(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
