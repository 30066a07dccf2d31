"""Figures by the columns of results.by, and the threshold of two classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.config.figures import FIGURES
from graft.page.elements import Html, cell, element, join, section, table
from graft.page.words import measured
from graft.report.record import RunRecord


def subgroups(record: RunRecord) -> Html:
    """One table per column, with the figures of the judged part for each value, the worst first."""
    by = record.metrics.get("by", {}).get(record.judged, {})
    if not by:
        return Html("")
    figures = FIGURES[record.task]
    tables = [
        table(
            [column, "images", *(figure.title for figure in figures)],
            [
                [entry["value"], cell(f"{entry['images']:,}", sort=entry["images"])]
                + [_figure(entry, figure.name) for figure in figures]
                for entry in entries
            ],
            caption=f"{record.judged} by {column}, worst {figures[0].title} first",
            sortable=True,
        )
        for column, entries in by.items()
    ]
    return section("Subgroups", *(element("div", each, class_="card tall") for each in tables))


def threshold(record: RunRecord) -> Html:
    """The chosen threshold and its outcomes on each part."""
    chosen = record.metrics.get("threshold")
    if not chosen:
        return Html("")
    rows = [
        [
            part,
            *(_figure(counts, name) for name in ("sensitivity", "specificity")),
            *(f"{counts[name]:,}" for name in ("misses", "false_alarms")),
        ]
        for part, counts in chosen["parts"].items()
    ]
    sentence = (
        f"{chosen['positive']} is named from a probability of {chosen['probability']:.3g}, chosen on the validation"
        " images; all other figures are of the likeliest class."
    )
    listed = table(["part", "sensitivity", "specificity", "misses", "false alarms"], rows, caption="Threshold")
    return section("Threshold", element("p", sentence), element("div", listed, class_="card"))


def _figure(entry: Mapping[str, Any], name: str) -> Html:
    value, interval = entry.get(name), entry.get(f"{name}_interval")
    note = element("small", f"{measured(interval[0])} to {measured(interval[1])}") if interval else ""
    return cell(join((measured(value), note)), sort=value)
