"""The course of training: curves, learning rates and the freeze timeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import nan
from typing import Any

from graft.config.figures import headline, ranking
from graft.page import figures
from graft.page.elements import Html, cell, element, figure, join, section, table
from graft.page.words import measured, moment, stretches
from graft.report.record import RunRecord

LOSSES = ("val/loss", "train/loss")
MOST_RATES = 12
RATE = "lr/"


def learning(record: RunRecord) -> Html:
    if is_solved(record):
        return section("Learning", element("div", join((_penalties(record), _measured(record))), class_="pair"))
    charts = join((
        _begun(record),
        _curves(record, "Loss", "loss", LOSSES, falls=True),
        *_figures(record),
        _rates(record),
        _range_test(record),
        _freeze(record),
    ))  # fmt: skip
    return section("Learning", element("div", charts, class_="pair")) if charts else Html("")


def is_solved(record: RunRecord) -> bool:
    """Whether the head was solved to the optimum for each of several penalties."""
    head = record.metrics.get("head")
    return isinstance(head, Mapping) and bool(head.get("path"))


def trains_early_stopped(record: RunRecord) -> bool:
    """Whether hidden layers were trained with early stopping, for each of several weight decays."""
    return is_solved(record) and "epoch" in record.metrics["head"]["path"][0]


def _measured(record: RunRecord) -> Html:
    """The results of all heads that were tried on the same features."""
    head = record.metrics["head"]
    metric = headline(record.task)
    crops = {each.get("crop_fraction") for each in head.get("measured", [])}
    best = (head.get("features"), head.get("crop_fraction"))

    def name(each: Mapping[str, Any]) -> str:
        crop = f", crop {each.get('crop_fraction'):g}" if len(crops) > 1 else ""
        is_best = (each["features"], each.get("crop_fraction")) == best
        return each["features"] + crop + (" (taken)" if is_best else "")

    rows = [
        [
            name(each),
            cell(measured(each["loss"])), cell(measured(each.get(metric.name))), f"head={each['head']}",
        ]
        for each in head.get("measured", [])
    ]  # fmt: skip
    if head.get("donor_classes") is not None:
        shown = cell(measured(head["donor_classes"]))
        rows.append(["the donor's own classes", cell("–"), shown, "donor.class_map=names"])
    if head.get("neighbours") is not None:
        rows.append(["nearest training images", cell("–"), cell(measured(head["neighbours"])), ""])
    if isinstance(mirrored := head.get("mirror_images"), Mapping):
        shown = cell(measured(mirrored.get("averaged")))
        rows.append(["answers averaged over mirror images", cell("–"), shown, "graft predict … --tta flips"])
    shown = table(["features", "loss", f"val {metric.title}", "take it by"], rows, caption="What one pass can give")
    return element("div", shown, class_="card")


def _begun(record: RunRecord) -> Html:
    """The figures of the solved head that training began with, and those after training."""
    head = record.metrics.get("head")
    begun = head.get("start") if isinstance(head, Mapping) else None
    if not isinstance(head, Mapping) or not isinstance(begun, Mapping):
        return Html("")
    returned = bool(head.get("returned"))
    trained = head.get("fine_tuned") if returned else record.metrics
    trained = trained if isinstance(trained, Mapping) else {}
    names = [f"{part}/{each}" for part in ("val", "test") for each in (headline(record.task).name, "loss")]
    rows = [
        [name.replace("/", " "), cell(measured(begun[name])), cell(measured(trained.get(name)))]
        for name in names
        if name in begun
    ]
    exported = "the solved head, as training ended below it" if returned else "what training made of it"
    shown = table(["", "solved head", "after training"], rows, caption=f"Exported is {exported}")
    return element("div", shown, class_="card")


def _penalties(record: RunRecord) -> Html:
    """The loss for each penalty of a solved head, on the images that it was solved on and on others."""
    head = record.metrics["head"]
    strengths = [float(point["penalty"]) for point in head["path"]]
    others = (
        "validation" if head.get("chosen_by") == "validation" else f"{head.get('chosen_by')} of the training images"
    )
    lines = [
        (name, strengths, [float(point[key]) for point in head["path"]])
        for name, key in ((others, "loss"), ("training", "train_loss"))
    ]
    chosen = float(head["penalty"])
    if trains_early_stopped(record):
        epoch = next(int(point["epoch"]) for point in head["path"] if point["penalty"] == head["penalty"])
        chart = figures.penalties(
            lines, f"Loss over weight decay; {chosen:.2g} was chosen.", mark=chosen, x="weight decay"
        )
        return figure(
            "Weight decay", chart,
            f"The head was trained with {len(strengths)} weight decays, each until the loss on {others} stopped"
            f" falling. Dotted: {chosen:.2g}, whose loss after epoch {epoch} was lowest.",
        )  # fmt: skip
    chart = figures.penalties(lines, f"Loss over the head's penalty; {chosen:.2g} was chosen.", mark=chosen)
    caption = (
        f"The head was solved for {len(strengths)} penalties. Dotted: {chosen:.2g}, whose loss on {others} was lowest."
    )
    if head.get("at_end"):
        caption += " It is at the end of the path, so a better one may lie beyond."
    if head.get("refit"):
        caption += " The head was then solved again on training and validation images together."
    return figure("Penalty", chart, caption)


def _figures(record: RunRecord) -> Iterator[Html]:
    """Plots of the run's figures: one for all that lie between 0 and 1, and one for each of the others."""
    metrics = record.figures
    shares = [each for each in metrics if each.is_share]
    for together in ([shares] if shares else []) + [[each] for each in metrics if not each.is_share]:
        names = [f"val/{each.name}" for each in together]
        names[1:1] = [f"train/{each.name}" for each in together if each.trained]
        title = ", ".join(dict.fromkeys(each.title.removeprefix("macro-").removeprefix("micro-") for each in together))
        yield _curves(record, title[:1].upper() + title[1:], "value", names, falls=together[0].falls)


def _lines(record: RunRecord, names: Sequence[str]) -> list[figures.Line]:
    lines = [(name, *record.column(name)) for name in names]
    return [line for line in lines if line[1]]


def _curves(record: RunRecord, title: str, y: str, names: Sequence[str], *, falls: bool) -> Html:
    lines = _lines(record, names)
    if not lines:
        return Html("")
    ends = "; ".join(f"{name} ends at {measured(ys[-1])}" for name, _, ys in lines)
    name, epochs, values = lines[0]
    caption = f"{name} is undefined in every epoch."
    if ranked := ranking(values, "min" if falls else "max"):
        caption = f"{name} was best at epoch {epochs[ranked[0]]:g}: {measured(values[ranked[0]])}."
    shown = [(name.replace("/", " "), xs, ys) for name, xs, ys in lines]
    best = record.metrics.get("best_epoch") or None  # 0: the head that training began with
    if best is not None:
        caption += f" Dotted: epoch {best:g}, whose weights were kept."
    chart = figures.curves(shown, f"{title} per epoch: {ends}.", y=y, mark=best)
    return figure(title, chart, caption)


def _rates(record: RunRecord) -> Html:
    """The learning rate of each stage at the end of each epoch, with gaps while it is frozen."""
    epochs, base = record.column("lr")
    if not epochs:
        return Html("")
    stages_of: dict[tuple[float | None, ...], list[str]] = {}
    for name in dict.fromkeys(name for row in record.history for name in row if name.startswith(RATE)):
        rates = tuple(row.get(name) for row in record.history if "lr" in row)
        stages_of.setdefault(rates, []).append(name.removeprefix(RATE))
    lines = [
        (_joined(stages), epochs, [nan if rate is None else rate for rate in rates])
        for rates, stages in stages_of.items()
    ]
    if not lines:
        chart = figures.curves([("optimizer.lr", epochs, base)], "Learning rate per epoch.", y="learning rate")
        return figure(
            "Learning rate", chart, "The scheduled optimizer.lr at the end of each epoch, before group factors."
        )
    chart = figures.curves(lines[:MOST_RATES], "Learning rate of each stage per epoch.", y="learning rate")
    return figure("Learning rates", chart, "At the end of each epoch, where the stage trains.")


def _range_test(record: RunRecord) -> Html:
    """The learning-rate range test of optimizer.lr=find."""
    search = record.lr_find
    if not search:
        return Html("")
    lines = [
        (name, search["rates"], search[key]) for name, key in (("of each batch", "losses"), ("smoothed", "smoothed"))
    ]
    chosen = float(search["suggestion"])
    chart = figures.range_test(lines, f"Loss over the learning rate; {chosen:g} was chosen.", mark=chosen)
    return figure("Range test", chart, f"optimizer.lr={chosen:g} was found, where the smoothed loss falls fastest.")


def _joined(stages: Sequence[str]) -> str:
    return stages[0] if len(stages) == 1 else f"{stages[0]} … {stages[-1]}"


def _freeze(record: RunRecord) -> Html:
    phases, stages = record.phases, record.stages
    if not phases or not stages:
        return Html("")
    spans = "; ".join(f"{moment(start)}: {stretches(frozen, stages)}" for start, _, frozen in phases)
    chart = figures.timeline(stages, phases, f"Frozen stages. {spans}.", ramp=record.thaw_warmup)
    return figure("Freeze timeline", chart, " ".join((f"Frozen {spans}.", *_further(record))))


def _further(record: RunRecord) -> Iterator[str]:
    """Sentences on the phases, besides what they freeze."""
    decided = record.plan.get("decided")
    if decided:
        yield f"The moments were {decided['rule']}."
    factors = [(float(span.get("start_epoch", 0)), float(span.get("factor", 1))) for span in record.spans]
    if any(factor != 1 for _, factor in factors):
        spans = "; ".join(f"{moment(start)} ×{factor:g}" for start, factor in factors)
        yield f"Every learning rate: {spans}."
    if record.thaw_warmup:
        yield f"Pale: what has thawed comes to its learning rate, in {record.thaw_warmup:g} epochs."
