"""The page of a sweep, from top to bottom."""

from __future__ import annotations

import shlex
from collections import Counter

from graft.page.elements import Html, bar, details, document, element, figure, join, section, table, tile
from graft.page.words import count, duration, percent
from graft.sweep import figures
from graft.sweep.record import COMPLETE, STATES, StudyRecord, TrialRecord

MOST_SLICES = 12


def lay_out_study(study: StudyRecord) -> str:
    """The whole page as HTML."""
    return document(
        f"Sweep {study.folder.name}",
        join((_lead(study), _tiles(study))),
        section("Best", _best(study)),
        section("Trials over time", _course(study)),
        section("Hyperparameters", *_hyperparameters(study)),
        section("Failures", _failures(study)),
        section("All trials", _all(study)),
        element("footer", f"Written by graft from the store of {study.folder.name}/."),
    )


def _lead(study: StudyRecord) -> Html:
    sought = " and ".join(f"{each.metric} ({each.direction})" for each in study.objectives)
    return join((
        element("p", f"{count(len(study.trials), 'trial')} for {sought}.", class_="lead"),
        element("pre", element("code", shlex.join(study.command))),
    ))  # fmt: skip


def _tiles(study: StudyRecord) -> Html:
    counts = Counter(trial.state for trial in study.trials)
    spent = sum(trial.seconds or 0.0 for trial in study.trials)
    shown = [tile(state, counts[state]) for state in STATES if counts[state]]
    if len(study.objectives) == 1 and study.best:
        best = study.best[0]
        shown.insert(0, tile(study.objectives[0].metric, f"{best.values[0]:.4g}", f"trial {best.number}"))
    return element("dl", *shown, tile("time of all trials", duration(spent)), class_="tiles")


def _best(study: StudyRecord) -> Html:
    if not study.best:
        return Html("")
    caption = "The best trial" if len(study.objectives) == 1 else "Trials that none other dominates"
    return element("div", _table(study, list(study.best), caption), class_="card")


def _course(study: StudyRecord) -> Html:
    shown: list[Html] = []
    if study.complete:
        caption = "Each point a complete trial; the line is the best so far."
        shown.append(figure("Objective", figures.history(study, "Objective by trial"), caption))
    if any(trial.began is not None for trial in study.trials):
        caption = "Blue: complete; orange: stopped early; red: failed; grey: not over."
        shown.append(figure("Timeline", figures.timeline(study, "Timeline of the trials"), caption))
    return element("div", *shown, class_="pair") if shown else Html("")


def _hyperparameters(study: StudyRecord) -> list[Html]:
    complete = study.complete
    keys = list(dict.fromkeys(key for trial in complete for key in trial.choices))
    varied = [key for key in keys if len({trial.choices.get(key) for trial in complete}) > 1]
    if not varied:
        return []
    shown: list[Html] = []
    if study.importances:
        rows = [(key, bar(share, percent(share))) for key, share in study.importances.items()]
        note = "Shares of what separates the best tenth of the trials from the rest (PED-ANOVA)."
        listed = table(("key", "importance"), rows, caption="Importance of each hyperparameter")
        shown.append(
            element("div", listed, element("p", note, class_="muted"), class_="card", style="margin-bottom:18px")
        )
    charts = [
        figure(key, figures.slice_of(study, key, f"Slice {key}"), "Filled: the best trial.")
        for key in varied[:MOST_SLICES]
    ]
    common = [key for key in varied if all(key in trial.choices for trial in complete)]
    if common:
        caption = "A line a trial; the best tenth is coloured."
        lines = figures.parallel(study, common[:MOST_SLICES], "Parallel coordinates")
        charts.append(figure("Parallel coordinates", lines, caption))
    if len(study.objectives) > 1:
        caption = "Coloured: no other trial is better in one objective and as good in the others."
        charts.append(figure("Pareto front", figures.pareto(study, "Pareto front"), caption))
    return [*shown, element("div", *charts, class_="pair")]


def _failures(study: StudyRecord) -> Html:
    if not study.failed:
        return Html("")
    rows = [(trial.number, _choices(trial), trial.reason) for trial in study.failed]
    return element(
        "div", table(("trial", "overrides", "reason"), rows, caption="Failed trials", numbers=False), class_="card"
    )


def _all(study: StudyRecord) -> Html:
    return details(count(len(study.trials), "trial"), _table(study, list(study.trials), "Every trial"))


def _table(study: StudyRecord, trials: list[TrialRecord], caption: str) -> Html:
    headers = ("trial", "state", *(each.metric for each in study.objectives), "time", "overrides")
    rows = [
        (
            trial.number,
            trial.state,
            *(_value(trial, place) for place in range(len(study.objectives))),
            duration(trial.seconds) if trial.seconds is not None else "–",
            _choices(trial),
        )
        for trial in trials
    ]
    return table(headers, rows, caption=caption, numbers=False)


def _value(trial: TrialRecord, place: int) -> str:
    return f"{trial.values[place]:.5g}" if trial.state == COMPLETE else "–"


def _choices(trial: TrialRecord) -> str:
    return " ".join(f"{key}={value}" for key, value in trial.choices.items())
