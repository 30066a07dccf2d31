"""The report of one run, from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np

from graft.config.choices import TaskKind
from graft.config.figures import headline
from graft.models.stage_head import head_in_words
from graft.page.elements import Html, cell, document, element, join, section, table, tile
from graft.page.words import count, duration, for_each_purpose, measured, percent, precision_name, span, stretches
from graft.report import quality, quality_labels, quality_numbers
from graft.report.confidence import confidence
from graft.report.helped import controls
from graft.report.learning import is_solved, learning, trains_early_stopped
from graft.report.origin import data, origin, settings, time_spent
from graft.report.record import RunRecord
from graft.report.subgroups import subgroups, threshold
from graft.results.intervals import read_intervals
from graft.results.left_out import in_words, left_out
from graft.results.predictions import Predictions
from graft.results.resampling import Interval

QUALITY: Mapping[TaskKind, Callable[[Predictions, Sequence[str]], Html]] = {
    TaskKind.single_label: quality.quality,
    TaskKind.multi_label: quality_labels.quality,
    TaskKind.regression: quality_numbers.quality,
}
"""The section on right and wrong answers for each task."""
TILES: Mapping[TaskKind, Sequence[Callable[[Predictions], list[Html]]]] = {
    TaskKind.single_label: (quality.tiles,),
    TaskKind.multi_label: (),
    TaskKind.regression: (),
}
"""Further tiles for each task, besides its figures."""


def lay_out(record: RunRecord) -> str:
    """The HTML of the whole report of one run."""
    intervals = {
        part: read_intervals(record.intervals, predictions) for part, predictions in record.predictions.items()
    }
    title = f"{record.network or 'network'} on {record.dataset or 'its data'}"
    return document(
        title,
        join((lead(record), tiles(record, intervals))),
        figures(record, intervals),
        controls([record]),
        learning(record),
        _quality(record),
        confidence(record),
        threshold(record),
        subgroups(record),
        origin(record),
        data(record),
        time_spent(record),
        settings(record),
        element("footer", f"Written by graft from the files in {record.folder.name}/."),
    )


def _quality(record: RunRecord) -> Html:
    """The section on right and wrong answers of the judged part."""
    predictions = record.predictions.get(record.judged)
    if predictions is None or not len(predictions.paths):
        return Html("")
    unsound = int((~np.isfinite(predictions.answers_NK).all(1)).sum())
    if unsound:
        sentence = (
            f"The network's answers to {count(unsound, 'image')} of the {predictions.part} part are not finite numbers."
        )
        return section("Right and wrong", element("p", f"{sentence} Nothing can be counted."))
    return QUALITY[predictions.task](predictions, record.classes)


def lead(record: RunRecord) -> Html:
    """The run in a few sentences: donor, frozen stages, duration, methods and precision; and its command."""
    sentences = " ".join(filter(None, (_donor(record), _frozen(record), _length(record))))
    shown = element("pre", element("code", record.command)) if record.command else ""
    parts = (
        element("p", sentences, class_="lead") if sentences else "",
        _head(record),
        _methods(record),
        _precision(record),
    )
    return join((*parts, shown))


def _head(record: RunRecord) -> Html:
    """A note if the weights of the head fit no plain model of the library."""
    head, build = record.plan.get("head"), record.model.get("build")
    sentence = head_in_words(head, build) if isinstance(head, Mapping) and isinstance(build, Mapping) else ""
    return element("p", sentence, class_="muted") if sentence else Html("")


def _methods(record: RunRecord) -> Html:
    """The methods used in addition to plain fine-tuning."""
    lines = record.plan.get("methods", [])
    if not lines:
        return Html("")
    return element("p", f"Method{'s' if len(lines) > 1 else ''}: {'; '.join(map(str, lines))}.", class_="muted")


def _precision(record: RunRecord) -> Html:
    """The precision and the execution of training and evaluation. Empty for old runs, which did not record them."""
    precision = record.metrics.get("precision")
    if not isinstance(precision, Mapping):
        return Html("")
    train, evaluation = (precision_name(str(precision.get(purpose))) for purpose in ("train", "evaluation"))
    exported = f"figures and predictions are of the exported network, in {evaluation}."
    sentences = [exported.capitalize() if is_solved(record) else f"Trained in {train}; {exported}"]
    for key, what in {"features": "Features after {} were computed once", "prefix": "Frozen stages to {} ran"}.items():
        for cut, ways in record.metrics.get(key, {}).items():
            if isinstance(ways, Mapping):
                sentences.append(f"{what.format(cut)}: {for_each_purpose(ways)}.")
    return element("p", " ".join(sentences), class_="muted")


def _donor(record: RunRecord) -> str:
    fraction = record.ledger.get("summary", {}).get("parameters_transferred_fraction")
    if fraction is None:
        return ""
    if not fraction:
        return "No donor: every weight was random at the start."
    return (
        f"{percent(fraction)} of the parameters come from {record.ledger.get('donor', {}).get('source', 'the donor')}."
    )


def _frozen(record: RunRecord) -> str:
    phases = record.plan.get("phases", [])
    if not phases:
        return ""
    stages = phases[0].get("frozen_stages", [])
    if not stages:
        return "Nothing was frozen." if len(phases) == 1 else "Nothing was frozen at the start."
    return f"Frozen{' at the start' if len(phases) > 1 else ''}: {stretches(stages, record.stages)}."


def _length(record: RunRecord) -> str:
    epochs, seconds = record.metrics.get("epochs"), record.metrics.get("train/seconds")
    if epochs is None:
        return ""
    if is_solved(record):
        how = "trained" if trains_early_stopped(record) else "solved"
        return f"The head was {how}{f' in {duration(seconds)}' if seconds is not None else ''}."
    return f"{count(epochs, 'epoch')}{f' in {duration(seconds)}' if seconds is not None else ''}."


def tiles(record: RunRecord, intervals: Mapping[str, Mapping[str, Interval]]) -> Html:
    """The headline figures, of the test part if there is one."""
    part = record.judged
    shown: list[Html] = []
    for metric in record.figures:
        interval = intervals.get(part, {}).get(metric.name)
        name = f"{part}/{metric.name}"
        value = interval.value if interval else record.metrics.get(name, "")
        if value is None or (isinstance(value, float) and isnan(value)):
            shown.append(tile(f"{part} {metric.title}", "undefined"))
        elif isinstance(value, int | float):
            note = f"95 % interval {span(interval.low, interval.high, interval.method)}" if interval else ""
            shown.append(tile(f"{part} {metric.title}", f"{value:.3f}" if metric.is_share else f"{value:.4g}", note))
    if part in record.predictions:
        shown += [each for tiles_of in TILES[record.task] for each in tiles_of(record.predictions[part])]
    verified = record.metrics.get("frozen_verified")
    if verified is not None:
        good = bool(verified)
        loose = int(record.metrics.get("frozen_statistics_moved") or 0)
        proof = f"bit-identical but for {count(loose, 'statistic')}" if loose else "bit-identical to what was injected"
        note = proof if good else "a frozen tensor moved"
        shown.append(tile("frozen tensors", "verified" if good else "moved", note, mark="good" if good else "bad"))
    speed = record.metrics.get("train/images_per_second")
    if isinstance(speed, int | float):
        shown.append(tile("training speed", f"{speed:,.0f}", "images a second"))
    return element("dl", *shown, class_="tiles") if shown else Html("")


def figures(record: RunRecord, intervals: Mapping[str, Mapping[str, Interval]]) -> Html:
    """Every metric of every part, with intervals if the run has predictions."""
    first = headline(record.task).name
    parts = list(intervals) or [part for part in ("val", "test") if f"{part}/{first}" in record.metrics]
    rows = [
        [metric.title, *(_figure(record.metrics, intervals, part, metric.name) for part in parts)]
        for metric in record.figures
        if any(metric.name in intervals.get(part, {}) or f"{part}/{metric.name}" in record.metrics for part in parts)
    ]
    if not rows:
        return Html("")
    note = (
        "Below each: the 95 % interval and its method, Wilson's score of a proportion, else resampling the images. It "
        "tells what other images of the same kind might give, not what another seed might. Where every resample gives "
        "the same there is none."
    )
    headers = ["metric", *(_headed(record, part) for part in parts)]
    shown = table(headers, rows, caption="Metrics by part")
    gaps = [element("p", f"{line}.", class_="muted") for line in _left_out(record)]
    return section("Metrics", element("div", shown, *gaps, element("p", note, class_="muted"), class_="card"))


def _left_out(record: RunRecord) -> list[str]:
    out = [
        left_out(part, predictions.truth, record.classes, predictions.task)
        for part, predictions in record.predictions.items()
    ]
    return [line for each in out for line in in_words(each, record.task)]


def _headed(record: RunRecord, part: str) -> str:
    predictions = record.predictions.get(part)
    return part if predictions is None else f"{part} ({count(len(predictions.paths), 'image')})"


def _figure(metrics: Mapping[str, Any], intervals: Mapping[str, Mapping[str, Interval]], part: str, name: str) -> Html:
    interval = intervals.get(part, {}).get(name)
    if interval is not None:
        return cell(
            join((measured(interval.value), element("small", span(interval.low, interval.high, interval.method))))
        )
    value = metrics.get(f"{part}/{name}", "")
    return cell(measured(value) if value is None or isinstance(value, int | float) else "–")
