"""Numbers, and descriptions of how they were computed, in readable form."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from graft.system.terminal import printable


def duration(seconds: float) -> str:
    """A duration as text: 0.42 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def percent(share: float) -> str:
    """A rounded percentage, with three decimals close to 0 % and 100 %, so that almost none does not read as none."""
    if 0 < share < 0.001 or 0.999 < share < 1:
        return f"{100 * share:.3f} %"
    return f"{100 * share:.0f} %" if share in (0, 1) else f"{100 * share:.1f} %"


def count(number: float, noun: str) -> str:
    """A number with its noun: 1 epoch, 2 epochs, 1,200 images."""
    plural = noun if number == 1 else {"class": "classes"}.get(noun, f"{noun}s")
    return f"{number:,.0f} {plural}"


def moment(epochs: float) -> str:
    """A moment of a training, given in epochs since its start: at first, after 1 epoch, after 1.5 epochs."""
    return f"after {epochs:g} epoch{'' if epochs == 1 else 's'}" if epochs else "at first"


def stretches(chosen: Collection[str], order: Sequence[str]) -> str:
    """Names in order, with three or more adjacent ones as `first to last`; `nothing` if there are none."""
    runs: list[list[str]] = [[]]
    for name in order:
        if name in chosen:
            runs[-1].append(name)
        elif runs[-1]:
            runs.append([])
    parts = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs if run]
    return ", ".join(parts) or "nothing"


def measured(value: float | None, places: int = 3, sign: str = "") -> str:
    """A metric as text: 0.912, or 0.00042 if the usual decimals would leave no significant digits; `undefined` if it
    could not be computed.
    """
    if value is None or math.isnan(value):
        return "undefined"
    fits = value == 0 or not abs(value) < 10 ** (1 - places)
    return f"{value:{sign}.{places}{'f' if fits else 'g'}}"


def precision_name(precision: str) -> str:
    """A readable name for Lightning's precision: float32 for 32-true; the mixed ones have their own names."""
    return "float32" if precision == "32-true" else precision


def for_each_purpose(ways: Mapping[str, str]) -> str:
    """`folded, float32`; if training and evaluation differ, the way of each (one of them may have none)."""
    if ways.get("train") == ways.get("evaluation"):
        return ways.get("train", "")
    purposes = {"train": "training", "evaluation": "evaluation"}
    return "; ".join(f"{ways[key]} for {purpose}" for key, purpose in purposes.items() if key in ways)


def span(low: float, high: float, method: str) -> str:
    """An interval with the method that computed it."""
    return "no interval" if math.isnan(low) else f"{measured(low)} to {measured(high)} ({method})"


SHOWN = 40


def plot_text(name: str) -> str:
    """A name as matplotlib draws it: of a length that leaves room for the drawing, and never as a formula.

    >>> plot_text("layer1"), plot_text("a" * 50), plot_text("$x$")
    ('layer1', 'aaaaaaaaaaaaaaaaaaaa…aaaaaaaaaaaaaaaaaaa', '\\\\$x\\\\$')
    """
    short = name if len(name) <= SHOWN else f"{name[: SHOWN // 2]}…{name[len(name) - SHOWN // 2 + 1 :]}"
    return printable(short).replace("$", r"\$")
