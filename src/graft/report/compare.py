"""Compares several runs on one page: the best on val, the effect of each setting, and the controls."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from graft.config.figures import FIGURES, LOSS, Figure, headline, ranking
from graft.page import figures
from graft.page.elements import Html, cell, details, document, element, figure, join, section, table, text, tile
from graft.page.words import count, duration, measured, span
from graft.report.helped import controls
from graft.report.paired import paired
from graft.report.record import RunRecord
from graft.report.run_settings import Settings, best, differing, monitored, settings_of
from graft.report.run_settings import figure as value_of
from graft.results.intervals import read_intervals
from graft.results.predictions import in_order_of

MOST_COLUMNS = 6  # settings in the table of runs; the others have a table of their own
MOST_SLICES = 8
ALIKE = {"seed", "data.fold"}
"""Settings that may differ between repetitions of the same experiment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The runs to compare. `records`, `names` and `settings` have one entry per run."""

    records: Sequence[RunRecord]
    names: Sequence[str]
    settings: Sequence[Settings]
    varied: Sequence[str]
    """The settings that differ between the runs, including the seed."""
    metric: str
    direction: str
    best: int | None

    @property
    def figures(self) -> Sequence[Figure]:
        """The figures of the runs' tasks. Usually all runs have the same task."""
        return list(dict.fromkeys(each for record in self.records for each in record.figures))

    @property
    def headlines(self) -> Sequence[Figure]:
        return list(dict.fromkeys(headline(record.task) for record in self.records))

    @classmethod
    def of(cls, records: Sequence[RunRecord]) -> Runs:
        settings = [settings_of(record) for record in records]
        metric, direction = monitored(settings, records[0].task)
        return cls(
            records=records,
            names=names_of([record.folder for record in records]),
            settings=settings,
            varied=differing(settings),
            metric=metric,
            direction=direction,
            best=best(records, metric, direction),
        )


def lay_out_runs(records: Sequence[RunRecord]) -> str:
    """The HTML of the whole comparison."""
    runs = Runs.of(records)
    title = f"{count(len(records), 'run')} on {_joined(record.dataset or 'their data' for record in records)}"
    return document(
        title,
        join((_lead(runs), _tiles(runs))),
        _best(runs),
        _table(runs),
        _slices(runs),
        _curves(runs),
        _seeds(runs),
        paired(runs.records, runs.names),
        controls(runs.records, runs.names),
        element("footer", "Written by graft from the files in the runs' folders."),
    )


def names_of(folders: Sequence[Path]) -> list[str]:
    """The name of each run: its path, without the part that all paths share."""
    absolute = [os.path.abspath(folder) for folder in folders]
    common = os.path.commonpath([os.path.dirname(path) for path in absolute])
    return [os.path.relpath(path, common) for path in absolute]


def _joined(words: Any) -> str:
    return " and ".join(dict.fromkeys(words))


def _lead(runs: Runs) -> Html:
    unfinished = [name for name, record in zip(runs.names, runs.records, strict=True) if not record.metrics]
    sentences = [
        f"Networks: {_joined(record.network or 'unknown' for record in runs.records)}.",
        f"Best by {runs.metric} ({runs.direction}), which is of the validation part; test figures chose nothing.",
        f"{len(unfinished)} did not finish: {', '.join(unfinished)}." if unfinished else "",
    ]
    sentences += [
        f"Not all runs have the same images in {part}: its figures must not be compared."
        for part in ("val", "test")
        if not _same_images(runs.records, part)
    ]
    return element("p", " ".join(filter(None, sentences)), class_="lead")


def _same_images(records: Sequence[RunRecord], part: str) -> bool:
    predictions = [record.predictions[part] for record in records if part in record.predictions]
    return all(in_order_of(predictions[0], other) is not None for other in predictions[1:])


def _tiles(runs: Runs) -> Html:
    if runs.best is None:
        return Html("")
    record = runs.records[runs.best]
    shown = [tile("best run", runs.names[runs.best])]
    value = value_of(record, runs.metric)
    if value is not None:
        shown.append(tile(runs.metric.replace("/", " "), measured(value), "by which it was chosen"))
    part = record.judged
    if part in record.predictions:
        predictions = record.predictions[part]
        intervals = read_intervals(record.intervals, predictions)
        shown += [
            tile(
                f"its {part} {metric.title}",
                measured(interval.value),
                f"95 % {span(interval.low, interval.high, interval.method)}",
            )
            for metric in FIGURES[predictions.task]
            if (interval := intervals.get(metric.name)) is not None
        ]
    return element("dl", *shown, class_="tiles")


def _best(runs: Runs) -> Html:
    if runs.best is None:
        return Html("")
    record, settings = runs.records[runs.best], runs.settings[runs.best]
    chosen = ", ".join(f"{key}={_word(settings.get(key))}" for key in runs.varied)
    return section(
        "The best run",
        element("p", f"{runs.names[runs.best]}{f', with {chosen}' if chosen else ''}. Again:"),
        element("pre", element("code", record.command)),
    )


def _table(runs: Runs) -> Html:
    columns = [key for key in runs.varied if any(_simple(settings.get(key)) for settings in runs.settings)]
    shown = columns[:MOST_COLUMNS]
    part = "test" if any(record.judged == "test" for record in runs.records) else "val"
    on_val = [f"val/{each.name}" for each in runs.headlines]
    metrics = list(dict.fromkeys((runs.metric, *on_val, *(f"{part}/{each.name}" for each in runs.figures))))
    rows = [
        [
            join((name, element("small", "best on val"))) if k == runs.best else name,
            *(cell(_word(settings.get(key))) for key in shown),
            *(_number(value_of(record, metric)) for metric in metrics),
            _number(record.metrics.get("epochs"), "{:.0f}"),
            _number(record.plan.get("parameters", {}).get("trainable"), "{:,}"),
            _time(record.metrics.get("train/seconds")),
        ]
        for k, (name, record, settings) in enumerate(zip(runs.names, runs.records, runs.settings, strict=True))
    ]
    titles = [_title(metric) for metric in metrics]
    headers = ["run", *(_breakable(key) for key in shown), *titles, "epochs", "parameters trained", "time"]
    listed = table(
        headers,
        [rows[k] for k in _ranked(runs)],
        caption="Every run; click a column's name to sort",
        sortable=True,
    )
    return section("Runs", element("div", listed, class_="card"), _further(runs, shown))


def _ranked(runs: Runs) -> list[int]:
    """The indices of the runs, from the best on val to the worst. Runs without the figure come last."""
    ranks = ranking([value_of(record, runs.metric) for record in runs.records], runs.direction)
    return [*ranks, *(k for k in range(len(runs.records)) if k not in ranks)]


def _title(metric: str) -> str:
    part, _, name = metric.partition("/")
    titles = (each.title for figures in FIGURES.values() for each in figures if each.name == name)
    return f"{part} {next(titles, name)}"


def _breakable(key: str) -> Html:
    """A key in which a line may break after each dot."""
    return Html("<wbr>".join(text(part) for part in re.split(r"(?<=\.)", key)))


def _further(runs: Runs, shown: Sequence[str]) -> Html:
    """A table of the settings that the table of runs has no room for, one per row."""
    rest = [key for key in runs.varied if key not in shown]
    if not rest:
        return Html("")
    rows = [[key, *(cell(_word(settings.get(key))) for settings in runs.settings)] for key in rest]
    listed = table(["setting", *runs.names], rows, caption="Other settings that differ", numbers=False)
    return details(f"{count(len(rest), 'further setting')} that differ", listed)


def _slices(runs: Runs) -> Html:
    """Plots of the monitored figure over each setting that differs."""
    points = [
        (k, value) for k, record in enumerate(runs.records) if (value := value_of(record, runs.metric)) is not None
    ]
    places, ys = [k for k, _ in points], [value for _, value in points]
    charts: list[Html] = []
    for key in runs.varied:
        xs = [runs.settings[k].get(key) for k in places]
        if len({repr(x) for x in xs}) < 2 or not all(_simple(x) for x in xs):
            continue
        top = places.index(runs.best) if runs.best is not None else None
        numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in xs)
        shown = xs if numbers else [_word(x) for x in xs]
        caption = f"Filled: the best run, at {_word(xs[top])}." if top is not None else ""
        ends = f"from {measured(min(ys))} to {measured(max(ys))}"
        label = f"{runs.metric} over {key}, {count(len(ys), 'run')} {ends}. {caption}"
        svg = figures.points(shown, ys, label, x=key, y=runs.metric.replace("/", " "), best=top)
        charts.append(figure(key, svg, caption))
    note = "Each point is a run; other settings may differ as well." if len(charts) > 1 else ""
    left = f" {len(charts) - MOST_SLICES} further settings are only in the table." if len(charts) > MOST_SLICES else ""
    return section(
        "Settings",
        element("p", note + left, class_="muted") if note else "",
        element("div", *charts[:MOST_SLICES], class_="pair"),
    ) if charts else Html("")  # fmt: skip


def _curves(runs: Runs) -> Html:
    charts: list[Html] = []
    for metric, y in {f"val/{each.name}": each.title for each in (LOSS, *runs.headlines)}.items():
        rows = [k for k, record in enumerate(runs.records) if record.column(metric)[0]]
        if not rows:
            continue
        lines = [(runs.names[k], *runs.records[k].column(metric)) for k in rows]
        top = rows.index(runs.best) if runs.best in rows else None
        label = f"{metric} of {count(len(lines), 'run')} over the epochs."
        charts.append(figure(metric.replace("/", " "), figures.overlay(lines, label, y=y, best=top)))
    return section("Learning", element("div", *charts, class_="pair")) if charts else Html("")


def _seeds(runs: Runs) -> Html:
    """The mean and standard deviation of runs that differ only in seed or fold."""
    alike: dict[str, list[int]] = {}
    for k, settings in enumerate(runs.settings):
        if runs.records[k].metrics:
            alike.setdefault(repr([settings.get(key) for key in runs.varied if key not in ALIKE]), []).append(k)
    together = [places for places in alike.values() if len(places) > 1]
    if not together or not ALIKE & {*runs.varied}:
        return Html("")
    metrics = [f"{part}/{each.name}" for each in runs.headlines for part in ("val", "test")]
    rows = [
        [", ".join(runs.names[k] for k in places), *(_spread(runs, places, metric) for metric in metrics)]
        for places in together
    ]
    caption = "Runs that differ only in seed or fold: mean ± standard deviation"
    headers = ["runs", *(metric.replace("/", " ") for metric in metrics)]
    return section("Seeds and folds", element("div", table(headers, rows, caption=caption), class_="card"))


def _spread(runs: Runs, places: Sequence[int], metric: str) -> Html:
    values = [value for k in places if (value := value_of(runs.records[k], metric)) is not None]
    return cell(f"{measured(fmean(values), 4)} ± {measured(stdev(values), 4)}" if len(values) > 1 else "–")


def _simple(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _word(value: object) -> str:
    """A value as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: object, form: str = "") -> Html:
    if not isinstance(value, int | float):
        return cell("–")
    return cell(form.format(value) if form else measured(value, 4), sort=float(value))


def _time(seconds: object) -> Html:
    return cell(duration(seconds), sort=float(seconds)) if isinstance(seconds, int | float) else cell("–")
