"""Plots as inline SVG by matplotlib, without its global state.

Colours are replaced by the page's variables (`--ink`, `--c1` …), so one plot serves light and dark mode.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from graft.page.words import plot_text

# Drawn with these colours, shown with the page's. Any colour would do that nothing else uses.
INK, MUTED, LINE = "#010101", "#020202", "#030303"
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SERIES = ("#0a0101", "#0a0202", "#0a0303", "#0a0404", "#0a0505", "#0a0606")
STYLES = ("-", "--", "-.", ":")
PAGE_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    **{colour: f"var(--c{place})" for place, colour in enumerate(SERIES, 1)},
}
SIZE = (4.6, 2.7)  # inches of 72 units: as wide as a phone, so that text of 9.5 units can be read there
TEXT = 9.5
LETTER, LINE_HEIGHT, LEGEND_ROW, GAP = 0.64 * TEXT, 1.35 * TEXT, 1.7 * TEXT, 5.0
MOST_TICKS = 6  # values that get a tick each

Line = tuple[str, Sequence[float], Sequence[float]]  # label, x, y


def curves(lines: Sequence[Line], label: str, *, y: str, mark: float | None = None) -> str:
    """Lines by epoch; a line with one value is a point. If there are more lines than colours, dashes distinguish them.

    Args:
        mark: an epoch to mark with a thin vertical line.
    """
    figure, axes = blank_axes("epoch", y)
    if mark is not None:
        axes.axvline(mark, color=MUTED, linestyle=":", linewidth=1.2)
    for place, (name, xs, ys) in enumerate(lines):
        axes.plot(
            xs,
            ys,
            label=plot_text(name),
            color=SERIES[place % len(SERIES)],
            linestyle=STYLES[place // len(SERIES) % len(STYLES)],
            linewidth=1.8,
            marker="o" if len(xs) < 3 else None,
            markersize=4,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if len(lines) > 1:
        _legend(axes, columns=max(1, min(len(lines), 40 // (4 + max(len(name) for name, _, _ in lines)))))
    return render(figure, label)


def range_test(lines: Sequence[Line], label: str, *, mark: float) -> str:
    """Losses by learning rate, on a logarithmic scale. The last line is emphasised.

    Args:
        mark: the rate to mark with a vertical line.
    """
    figure, axes = blank_axes("learning rate", "loss")
    axes.set_xscale("log")
    axes.axvline(mark, color=MUTED, linestyle=":", linewidth=1.2)
    for place, (name, xs, ys) in enumerate(lines):
        last = place == len(lines) - 1
        axes.plot(xs, ys, label=plot_text(name), color=SERIES[0] if last else MUTED, linewidth=1.8 if last else 0.8)
    low, start = min(lines[-1][2]), lines[-1][2][0]
    axes.set_ylim(low - 0.3 * (start - low), start + 0.5 * (start - low))  # not up to where it diverged
    _legend(axes, columns=len(lines))
    return render(figure, label)


def penalties(lines: Sequence[Line], label: str, *, mark: float, x: str = "penalty") -> str:
    """Losses by penalty, on a logarithmic scale, with the strongest penalty on the left.

    Args:
        mark: the penalty to mark with a vertical line.
    """
    figure, axes = blank_axes(x, "loss")
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.axvline(mark, color=MUTED, linestyle=":", linewidth=1.2)
    for place, (name, xs, ys) in enumerate(lines):
        axes.plot(xs, ys, label=plot_text(name), color=SERIES[place], marker="o", markersize=3, linewidth=1.8)
    _legend(axes, columns=len(lines))
    return render(figure, label)


def overlay(lines: Sequence[Line], label: str, *, y: str, best: int | None = None) -> str:
    """One metric of many runs by epoch: up to 6 runs in different colours, otherwise all but the best in grey.

    Args:
        best: index of the run to draw on top.
    """
    if len(lines) <= len(SERIES):
        return curves(lines, label, y=y)
    figure, axes = blank_axes("epoch", y)
    others = [line for place, line in enumerate(lines) if place != best]
    for place, (_, xs, ys) in enumerate(others):
        axes.plot(xs, ys, color=MUTED, linewidth=0.9, alpha=0.55, label=None if place else "the others")
    if best is not None:
        name, xs, ys = lines[best]
        axes.plot(xs, ys, color=SERIES[0], linewidth=2.2, label=f"best: {plot_text(name)}")
        _legend(axes, columns=2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    return render(figure, label)


def points(xs: Sequence[Any], ys: Sequence[float], label: str, *, x: str, y: str, best: int | None = None) -> str:
    """A metric of each run by one of its settings: numbers to scale (logarithmic if they span several powers of ten),
    words side by side.

    Args:
        best: index of the run to draw filled and larger.
    """
    figure, axes = blank_axes(x, y)
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in xs)
    words = list(dict.fromkeys(str(value) for value in xs))
    places = [float(value) for value in xs] if numeric else [float(words.index(str(value))) for value in xs]
    if numeric and min(places) > 0 and max(places) >= 10 * min(places):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    if numeric and len(set(places)) <= MOST_TICKS:
        axes.set_xticks(sorted(set(places)), [f"{place:g}" for place in sorted(set(places))])
    elif not numeric:
        axes.set_xticks(range(len(words)), [plot_text(word if len(word) <= 14 else f"{word[:13]}…") for word in words])
        axes.set_xlim(-0.5, len(words) - 0.5)
    axes.scatter(places, ys, s=34, facecolors="none", edgecolors=SERIES[0], linewidths=1.4)
    if best is not None:
        axes.scatter([places[best]], [ys[best]], s=70, color=SERIES[1], zorder=3)
    return render(figure, label)


def timeline(
    stages: Sequence[str], phases: Sequence[tuple[float, float, frozenset[str]]], label: str, *, ramp: float = 0
) -> str:
    """One row per stage, with filled spans where it trains and outlined ones where it is frozen.

    Args:
        phases: (start, end, frozen stages).
        ramp: length of the warm-up after each unfreezing, which is drawn pale.
    """
    figure, axes = blank_axes("epoch", "", height=0.62 + 0.26 * max(2, len(stages)))
    for row, stage in enumerate(stages):
        for start, end, still in _spans(stage, phases):
            full = start if still or not start else min(start + ramp, end)
            if full > start:
                axes.barh(row, full - start, left=start, height=0.72, facecolor=SERIES[2], alpha=0.4)
            axes.barh(
                row,
                end - full,
                left=full,
                height=0.72,
                facecolor="none" if still else SERIES[2],
                edgecolor=LINE if still else SERIES[2],
                linewidth=0.8,
            )
            if still:
                axes.text((start + end) / 2, row, "frozen", ha="center", va="center", fontsize=TEXT - 0.5, color=MUTED)
    axes.set_yticks(range(len(stages)), [plot_text(stage) for stage in stages])
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xlim(phases[0][0], phases[-1][1])
    return render(figure, label)


def _spans(stage: str, phases: Sequence[tuple[float, float, frozenset[str]]]) -> list[tuple[float, float, bool]]:
    """(start, end, frozen) for one stage, with adjacent spans of the same state merged."""
    spans: list[tuple[float, float, bool]] = []
    for start, end, frozen in phases:
        if spans and spans[-1][2] == (stage in frozen):
            start = spans.pop()[0]  # noqa: PLW2901
        spans.append((start, end, stage in frozen))
    return spans


def reliability_diagram(edges: Floats, accuracy: Floats, count: Ints, label: str) -> str:
    """Accuracy by confidence in bins, with the diagonal of perfect calibration; below it, the images per bin.

    Args:
        edges: edges of the bins, [B + 1].
        accuracy: accuracy in each bin, [B].
        count: number of images in each bin, [B].
    """
    figure = _figure(height=3.3)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    for axes, y in ((upper, "accuracy"), (lower, "images")):
        _style(axes, "confidence" if axes is lower else "", y)
    centres, width = (edges[:-1] + edges[1:]) / 2, np.diff(edges) * 0.9
    filled = count > 0
    upper.bar(centres[filled], accuracy[filled], width[filled], color=SERIES[0], alpha=0.85)
    upper.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1)
    upper.set_ylim(0, 1.02)
    lower.bar(centres[filled], count[filled], width[filled], color=MUTED, alpha=0.6)
    lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=2))
    lower.set_xlim(0, 1)
    lower.tick_params(axis="x", pad=7)  # its first label would touch the other axis's
    return render(figure, label)


def heat(matrix_KK: Any, label: str) -> str:
    """A confusion matrix [K, K] that is too large for a table, each row as fractions of its class."""
    counts_KK = np.asarray(matrix_KK, dtype=np.float64)
    shares_KK = counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
    rgba = np.zeros((*shares_KK.shape, 4))
    rgba[..., :3] = (0.20, 0.47, 0.85)  # seen well on white and on black; the share is its opacity
    rgba[..., 3] = shares_KK**0.5
    figure, axes = blank_axes("predicted", "true", height=4.0)
    axes.imshow(rgba, interpolation="nearest", aspect="equal")
    axes.grid(visible=False)
    return render(figure, label)


def render(figure: Figure, label: str) -> str:
    """The plot as a scalable <svg> with a label for screen readers and with ids that occur in no other plot."""
    if figure.get_layout_engine() is None:
        _set_margins(figure)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)  # a style would rule the page
    svg = re.sub(r"font: ([\d.]+px) [^;\"]+|font-size: ([\d.]+px); font-family: [^;\"]+", r"font-size: \1\2", svg)
    prefix = re.sub(r"\W+", "-", label).strip("-").lower()
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{prefix}-", svg)
    for colour, shown in PAGE_COLOURS.items():
        svg = svg.replace(colour, shown)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(SIZE[0], height))
    FigureCanvasSVG(figure)
    return figure


def _set_margins(figure: Figure) -> None:
    """Sets the margins for the text around the axes, by its number of letters.

    matplotlib's own layout measures every text with a font that is not the page's, and takes longer than the drawing.
    """
    left = bottom = right = top = GAP
    for axes in figure.axes:
        ys, xs = ([_extent(label) for label in axis.get_ticklabels()] for axis in (axes.yaxis, axes.xaxis))
        beyond = _widest(xs[:1]) * (
            1 if any(label.get_horizontalalignment() == "right" for label in axes.get_xticklabels()) else 0.5
        )
        left = max(left, beyond, _widest(ys) + (LINE_HEIGHT if axes.get_ylabel() else 0) + 2 * GAP)
        highest = max((height for _, height in xs), default=0)
        bottom = max(bottom, highest + (LINE_HEIGHT if axes.get_xlabel() else 0) + GAP)
        right = max(right, _widest(xs[-1:]) / 2)
        if (legend := axes.get_legend()) is not None:
            rows = math.ceil(len(legend.get_texts()) / int(str(legend.get_label())))
            top = max(top, LEGEND_ROW * rows + GAP)
    width, height = (72 * inches for inches in figure.get_size_inches())
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height, hspace=0.12)


def _widest(extents: Sequence[tuple[float, float]]) -> float:
    return max((width for width, _ in extents), default=0)


def _extent(label: Text) -> tuple[float, float]:
    """Width and height of a tick label, in points."""
    letters, turned = len(re.sub(r"\\mathdefault|[${}^\\]", "", label.get_text())), math.radians(label.get_rotation())
    width, height = LETTER * letters, LINE_HEIGHT * bool(letters)
    return (
        width * abs(math.cos(turned)) + height * abs(math.sin(turned)),
        width * abs(math.sin(turned)) + height * abs(math.cos(turned)),
    )


def blank_axes(x: str, y: str, height: float = SIZE[1]) -> tuple[Figure, Axes]:
    figure = _figure(height)
    axes = figure.add_subplot()
    _style(axes, x, y)
    return figure, axes


def _style(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, color=MUTED, fontsize=TEXT)
    axes.set_ylabel(y, color=MUTED, fontsize=TEXT)
    axes.tick_params(colors=MUTED, labelsize=TEXT, length=0, labelcolor=INK)
    axes.ticklabel_format(style="plain", useOffset=False)  # a power of ten for all would stand where the legend does
    axes.grid(visible=True, color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(LINE)


def _legend(axes: Axes, columns: int) -> None:
    """Draws the legend. Its invisible label stores the number of columns, which matplotlib has no public name for."""
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize=TEXT, labelcolor=INK,
        borderaxespad=0.2, columnspacing=1.4, handlelength=1.8,
    )  # fmt: skip
    legend.set_label(str(columns))
