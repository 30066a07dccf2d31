"""A comparison's figures as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.ratio import quartiles

_UNITS = {"s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")), "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))}


def table(figures: dict[str, Any]) -> str:
    """A line per way: median, quartiles, processor time, the ratio to ours with its quartiles and its limit."""
    heads = ("", "median", "quartiles", "processor", "ratio", "quartiles", "by processor", "promised", "reached")
    rows = [heads, _row(figures["ours"], figures["unit"])]
    rows += [_row(other, figures["unit"]) for other in figures["others"]]
    shown = [column for column in range(len(heads)) if any(row[column] for row in rows[1:])]
    widths = [max(len(row[column]) for row in rows) for column in shown]
    lines = [
        "  ".join(row[column].ljust(width) for column, width in zip(shown, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([f"{figures['what']}; turns: {figures['turns']}", *lines])


def _row(way: dict[str, Any], unit: str) -> Sequence[str]:
    low, middle, high = quartiles(way["values"])
    several = len(way["values"]) > 1
    ratio = promise = spread = by_processor = ""
    if "ratio" in way:
        ratio = f"{way['ratio']:.3g}{_direction(way)}"
        promise = "" if way["promise"] is None else f"{way['promise']}{'' if way['kept'] else ', NOT KEPT'}"
        spread = f"{way['ratio_quartiles'][0]:.3g} to {way['ratio_quartiles'][1]:.3g}" if several else ""
        if way["ratio_of_processor_time"] is not None:
            by_processor = f"{way['ratio_of_processor_time']:.3g}"
            if several:
                low_ratio, high_ratio = way["ratio_of_processor_time_quartiles"]
                by_processor += f" ({low_ratio:.3g} to {high_ratio:.3g})"
    return (
        way["name"], _said(middle, unit), f"{_said(low, unit)} to {_said(high, unit)}" if several else "",
        _said(median(way["processor"]), unit) if way["processor"] else "", ratio, spread, by_processor, promise,
        _reached(way),
    )  # fmt: skip


def _direction(way: dict[str, Any]) -> str:
    """What the ratio is of."""
    plus = f" less {way['plus']:g}" if way["plus"] else ""
    return " (this / ours)" if way["faster"] else f" (ours{plus} / this)"


def _reached(way: dict[str, Any]) -> str:
    names = list(way["beside"][0]) if way["beside"] else []
    return ", ".join(f"{name} {median(turn[name] for turn in way['beside']):.4g}" for name in names)


def _said(value: float, unit: str) -> str:
    size, name = next((found for found in _UNITS[unit] if abs(value) >= found[0]), _UNITS[unit][-1])
    return f"{value / size:.3g} {name}"
