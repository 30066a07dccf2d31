"""Whether transfer helped: compares the run with random initialization and with a linear probe."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from graft.config.figures import FIGURES, Figure, headline
from graft.page.elements import Html, cell, details, element, join, section, table
from graft.page.words import measured
from graft.report.record import RunRecord
from graft.results.predictions import in_order_of
from graft.results.resampling import Interval, paired_difference

RANDOM, PROBE = "random_init", "linear_probe"
WORDS = {
    RANDOM: ("random weights", "Transfer helped by", "Transfer hurt by", "No help of the transfer could be measured"),
    PROBE: (
        "a linear probe", "Training more than the head helped by", "Training more than the head hurt by",
        "No help of training more than the head could be measured",
    ),
}  # fmt: skip
NOTE = (
    "Each control is the same command with the same seed, epochs and learning rate: random weights train whole, the "
    "linear probe trains a new linear head on the frozen donor. The intervals are of differences on the same images, "
    "of accuracies by Newcombe's method, else by resampling the images (percentile bootstrap); they do not tell what "
    "another seed or a learning rate of the control's own might give."
)


def controls(records: Sequence[RunRecord], names: Sequence[str] = ("",)) -> Html:
    """Sentences and figures for each run that has controls.

    Args:
        names: the name of each run, if there are several.
    """
    shown = [_of_run(record, name) for record, name in zip(records, names, strict=True) if record.controls]
    return section("Did the transfer help?", *shown, element("p", NOTE, class_="muted")) if shown else Html("")


def difference(record: RunRecord, control: RunRecord, metric: Figure) -> Interval | None:
    """The run's figure minus its control's on the judged part, paired by image; None if it cannot be computed."""
    own, other = record.predictions.get(record.judged), control.predictions.get(record.judged)
    matched = in_order_of(own, other) if own is not None and other is not None else None
    if own is None or matched is None:
        return None
    return paired_difference(own.answers_NK, matched.answers_NK, own.truth, metric.name, task=own.task)


def sentence(record: RunRecord, control: RunRecord, name: str) -> str:
    """The difference with its interval and both figures, in one sentence."""
    part, metric = record.judged, headline(record.task)
    before, after = (_number(each.metrics.get(f"{part}/{metric.name}")) for each in (control, record))
    interval = difference(record, control, metric)
    against, helped, hurt, unclear = WORDS[name]
    ends = f"{before} with {against}, {after} in this run"
    if interval is None:
        return f"{part} {metric.title}: {ends}; the images differ, so no interval is given."
    if isnan(interval.low):
        what = (
            "the difference is undefined on these images"
            if isnan(interval.value)
            else "it is the same in every resample"
        )
        return f"{part} {metric.title}: {ends}; {what}, so no interval is given."
    change, low, high = (_change(metric, value) for value in (interval.value, interval.low, interval.high))
    span = f"95 % interval {low} to {high}"
    if interval.low <= 0 <= interval.high:
        unit = " points" if metric.is_share else ""
        return f"{unclear}: {part} {metric.title} changed by {change}{unit} ({span}): {ends}."
    better = (interval.high < 0) if metric.falls else (interval.low > 0)
    by = f"{change.lstrip('+-')} {f'points of {part}' if metric.is_share else f'of {part}'} {metric.title}"
    return f"{helped if better else hurt} {by} ({span}): {ends}."


def _change(metric: Figure, value: float) -> str:
    """A signed difference, in percentage points if the figure is a share."""
    return f"{100 * value:+.1f}" if metric.is_share else f"{value:+.3g}"


def _of_run(record: RunRecord, name: str) -> Html:
    controls = {each: record.controls[each] for each in (RANDOM, PROBE) if each in record.controls}
    part = record.judged
    rows = [
        [
            metric.title,
            _value(record, f"{part}/{metric.name}"),
            *(_against(record, control, metric) for control in controls.values()),
        ]
        for metric in FIGURES[record.task]
        if f"{part}/{metric.name}" in record.metrics
    ]
    headers = [part, "this run", *(WORDS[each][0] for each in controls)]
    caption = f"{name or 'This run'} and its controls; below, what the run's figure is above the control's"
    return join((
        element("h3", name) if name else "",
        *(element("p", sentence(record, control, each)) for each, control in controls.items()),
        element("div", table(headers, rows, caption=caption), class_="card"),
        *(details(f"Command: {WORDS[each][0]}", element("pre", element("code", control.command)))
          for each, control in controls.items()),
    ))  # fmt: skip


def _value(record: RunRecord, metric: str) -> Html:
    return cell(_number(record.metrics.get(metric)))


def _number(value: object) -> str:
    return measured(value) if isinstance(value, int | float) else "–"


def _against(record: RunRecord, control: RunRecord, metric: Figure) -> Html:
    interval = difference(record, control, metric)
    name = f"{record.judged}/{metric.name}"
    value = control.metrics.get(name)
    if interval is None or isnan(interval.low) or not isinstance(value, int | float):
        return _value(control, name)
    change, low, high = (measured(each, sign="+") for each in (interval.value, interval.low, interval.high))
    return cell(join((measured(value), element("small", f"{change} ({low} to {high})"))))
