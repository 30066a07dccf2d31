"""How it learned: curves, learning rates, what was frozen when."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

from graft.results.record import RunRecord
from graft.results.report import figures
from graft.results.report.page import Html, element, figure, join, section

LOSSES = ("val/loss", "train/loss")
QUALITIES = ("val/accuracy", "train/accuracy", "val/f1", "val/auroc")
MOST_RATES = 12


def learning(record: RunRecord) -> Html:
    drawn = join((
        _curves(record, "Loss", "loss", LOSSES),
        _curves(record, "Accuracy, F1, AUROC", "value", QUALITIES),
        _rates(record),
        _freeze(record),
    ))  # fmt: skip
    return section("Learning", element("div", drawn, class_="pair")) if drawn else Html("")


def _lines(record: RunRecord, names: Sequence[str]) -> list[figures.Line]:
    lines = [(name, *record.column(name)) for name in names]
    return [line for line in lines if line[1]]


def _curves(record: RunRecord, title: str, y: str, names: Sequence[str]) -> Html:
    lines = _lines(record, names)
    if not lines:
        return Html("")
    ends = "; ".join(f"{name} ends at {ys[-1]:.3f}" for name, _, ys in lines)
    name, epochs, values = lines[0]
    best = max(values) if y == "value" else min(values)
    caption = f"{name} was best at epoch {epochs[list(values).index(best)]:g}: {best:.3f}."
    shown = [(name.replace("/", " "), xs, ys) for name, xs, ys in lines]
    kept = record.metrics.get("best_epoch")
    if kept is not None:
        caption += f" Dotted: epoch {kept + 1:g}, whose weights were kept."
    drawn = figures.curves(shown, f"{title} per epoch: {ends}.", y=y, mark=None if kept is None else kept + 1)
    return figure(title, drawn, caption)


def _rates(record: RunRecord) -> Html:
    """The rate at each epoch's end, for each group of its own factor; gaps where a group is frozen."""
    epochs, base = record.column("lr")
    if not epochs:
        return Html("")
    factors: dict[tuple[str, float], None] = {
        (group["stage"], group["factor"]): None for group in record.plan.get("groups", []) if "factor" in group
    }
    stages_of: dict[tuple[float, ...], list[str]] = {}
    for stage, factor in factors:
        rates = [
            nan if _frozen(record, stage, epoch) else factor * rate for epoch, rate in zip(epochs, base, strict=True)
        ]
        stages_of.setdefault(tuple(rates), []).append(stage)
    lines = [(_joined(stages), epochs, rates) for rates, stages in stages_of.items()]
    if not lines:
        drawn = figures.curves([("optimizer.lr", epochs, base)], "Learning rate per epoch.", y="learning rate")
        return figure(
            "Learning rate", drawn, "The scheduled optimizer.lr at the end of each epoch, before group factors."
        )
    drawn = figures.curves(lines[:MOST_RATES], "Learning rate of each stage per epoch.", y="learning rate")
    return figure("Learning rates", drawn, "At the end of each epoch, where the stage trains.")


def _frozen(record: RunRecord, stage: str, epoch: float) -> bool:
    """Whether a stage is frozen in the last step of an epoch, counted from 1."""
    return any(start < epoch <= end and stage in frozen for start, end, frozen in record.phases)


def _joined(stages: Sequence[str]) -> str:
    return stages[0] if len(stages) == 1 else f"{stages[0]} … {stages[-1]}"


def _freeze(record: RunRecord) -> Html:
    phases, stages = record.phases, record.stages
    if not phases or not stages:
        return Html("")
    told = "; ".join(
        f"{'at first' if not start else f'after {start:g} epochs'}: {_list([s for s in stages if s in frozen])}"
        for start, _, frozen in phases
    )
    drawn = figures.timeline(stages, phases, f"Frozen stages. {told}.")
    return figure("Freeze timeline", drawn, f"Frozen {told}.")


def _list(stages: Sequence[str]) -> str:
    return ", ".join(stages) or "nothing"
