"""From comparisons to figures: values that JSON can hold, and the limits that they exceed."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.case import SHOWN, Against, Comparison, Limit, Measured, Way
from benchmarks.ratio import interleave, quartiles
from graft.system.machine import processor


def measure(comparison: Comparison, *, repeats: int) -> dict[str, Any]:
    """Every way's values, and each other way's ratio to ours."""
    ways = [comparison.ours, *(against.way for against in comparison.others)]
    turns = repeats * comparison.turns
    found = interleave([way.measure for way in ways], repeats=turns, warm_up=comparison.warm_up)
    ours, *others = [_with_end(way, turns) for way, turns in zip(ways, found, strict=True)]
    return {
        "what": comparison.what,
        "unit": comparison.unit,
        "turns": turns,
        "ours": _values(comparison.ours.name, ours),
        "others": [
            _beside(against, ours, other) for against, other in zip(comparison.others, others, strict=True)
        ],
    }  # fmt: skip


def machine(threads: int) -> dict[str, Any]:
    """What it was measured on."""
    import torch

    return {
        "processor": processor(),
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def exceeded(figures: dict[str, Any]) -> list[str]:
    """The limits of a comparison that its figures do not keep, in words."""
    return [
        f"{figures['what']}: {figures['ours']['name']} {_compared(other)} {other['ratio']:.3g} beside {other['name']},"
        f" promised {other['promise']}"
        for other in figures["others"]
        if other["kept"] is False
    ]


def _with_end(way: Way, turns: Sequence[Measured]) -> list[Measured]:
    end = way.reached()
    return [replace(turn, beside={**turn.beside, **end}) for turn in turns]


def _compared(other: dict[str, Any]) -> str:
    return "times as fast:" if other["faster"] else "over the other's figure:"


def _beside(against: Against, ours: Sequence[Measured], other: Sequence[Measured]) -> dict[str, Any]:
    limit = against.limit or SHOWN
    low, middle, high = quartiles(_ratios(limit, [turn.value for turn in ours], [turn.value for turn in other]))
    mine, others = _processor_times(ours), _processor_times(other)
    by_processor = quartiles(_ratios(limit, mine, others)) if mine and others else None
    return {
        **_values(against.way.name, other),
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "ratio_of_processor_time": by_processor[1] if by_processor else None,
        "ratio_of_processor_time_quartiles": [by_processor[0], by_processor[2]] if by_processor else None,
        "faster": limit.faster,
        "plus": limit.plus,
        "promise": str(limit) if against.limit else None,
        "kept": limit.holds(middle) if against.limit else None,
    }


def _ratios(limit: Limit, ours: Sequence[float], other: Sequence[float]) -> list[float]:
    return [limit.ratio(mine, its) for mine, its in zip(ours, other, strict=True)]


def _values(name: str, turns: Sequence[Measured]) -> dict[str, Any]:
    return {
        "name": name,
        "values": [turn.value for turn in turns],
        "processor": _processor_times(turns),
        "beside": [dict(turn.beside) for turn in turns],
    }


def _processor_times(turns: Sequence[Measured]) -> list[float]:
    """None of them where one of them is not known."""
    known = [turn.processor for turn in turns if turn.processor is not None]
    return known if len(known) == len(turns) else []
