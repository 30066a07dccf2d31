"""The benchmark's arithmetic: turns, ratios, promises, and what is said of them."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from benchmarks.case import Against, Comparison, Limit, Measure, Measured, Way
from benchmarks.measure import exceeded, measure
from benchmarks.memory import peak_extra
from benchmarks.ratio import interleave, quartiles
from benchmarks.table import table


def told(values: Sequence[float], processor: Sequence[float] = (), **beside: float) -> Measure:
    """A way that comes to these values, one after the other."""
    given: Iterator[tuple[float, float | None]] = iter(zip(values, processor or [None] * len(values), strict=True))

    def measured() -> Measured:
        value, seconds = next(given)
        return Measured(value=value, processor=seconds, beside=beside)

    return measured


def comparison(ours: Measure, other: Measure, limit: Limit | None, **changes: Any) -> Comparison:
    return Comparison(
        what="a thing", ours=Way(name="ours", measure=ours),
        others=[Against(way=Way(name="other", measure=other), limit=limit)], **changes,
    )  # fmt: skip


def test_ways_take_turns_each_repeat_begins_with_the_next_and_the_warm_up_is_not_counted() -> None:
    order: list[str] = []

    def way(name: str) -> Measure:
        def measured() -> Measured:
            order.append(name)
            return Measured(value=float(len(order)))

        return measured

    found = interleave([way("a"), way("b"), way("c")], repeats=3, warm_up=1)
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b", "a", "b", "c"]
    assert [[turn.value for turn in turns] for turns in found] == [[6, 8, 10], [4, 9, 11], [5, 7, 12]]


def test_a_disturbance_of_both_leaves_the_ratio() -> None:
    figures = measure(comparison(told([2, 20, 2]), told([1, 10, 1]), Limit(factor=3)), repeats=3)
    assert figures["others"][0]["ratio"] == 2.0
    assert figures["others"][0]["ratio_quartiles"] == [2.0, 2.0]


def test_quartiles() -> None:
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize(
    ("limit", "ours", "other", "ratio", "kept"),
    [
        (Limit(factor=1.3), 1.4, 1.0, 1.4, False),
        (Limit(factor=1.3), 1.3, 1.0, 1.3, True),
        (Limit(factor=15, faster=True), 2.0, 30.0, 15.0, True),
        (Limit(factor=15, faster=True), 2.0, 29.0, 14.5, False),
        (Limit(factor=1.5, plus=0.5), 2.0, 1.0, 1.5, True),
        (Limit(factor=1.5, plus=0.5), 2.5, 1.0, 2.0, False),
        (None, 2.0, 3.0, 1.5, None),
    ],
)
def test_a_promise_is_kept_or_not(
    limit: Limit | None, ours: float, other: float, ratio: float, kept: bool | None
) -> None:
    figures = measure(comparison(told([ours]), told([other]), limit), repeats=1)
    assert figures["others"][0]["ratio"] == pytest.approx(ratio)
    assert figures["others"][0]["kept"] is kept
    assert len(exceeded(figures)) == (kept is False)


def test_a_repeat_may_have_several_turns() -> None:
    figures = measure(comparison(told(range(7)), told(range(1, 8)), None, turns=3, warm_up=1), repeats=2)
    assert figures["ours"]["values"] == [1, 2, 3, 4, 5, 6]
    assert figures["turns"] == 6


def test_processor_time_has_a_ratio_of_its_own_where_both_tell_it() -> None:
    promise = Limit(factor=1.0, faster=True)
    both = measure(comparison(told([1], [0.5]), told([3], [2.0]), promise), repeats=1)
    assert both["others"][0]["ratio_of_processor_time"] == 4.0
    several = measure(comparison(told([1, 1, 1], [1, 2, 1]), told([1, 1, 1], [2, 2, 3]), promise), repeats=3)
    assert several["others"][0]["ratio_of_processor_time_quartiles"] == [1.5, 2.5]
    assert "2 (1.5 to 2.5)" in table(several)
    one = measure(comparison(told([1]), told([3], [2.0]), promise), repeats=1)
    assert one["others"][0]["ratio_of_processor_time"] is None


def test_what_is_reached_in_the_end_is_asked_once_behind_the_last_turn_and_stands_beside_every_turn() -> None:
    order: list[str] = []

    def step() -> Measured:
        order.append("step")
        return Measured(value=1.0, beside={"images/s": 32.0})

    def reached() -> dict[str, float]:
        order.append("end")
        return {"accuracy": 0.75}

    ways = [Way(name=name, measure=step, reached=reached) for name in ("ours", "other")]
    figures = measure(Comparison(what="a thing", ours=ways[0], others=[Against(way=ways[1])]), repeats=2)
    assert order == ["step"] * 4 + ["end"] * 2
    assert figures["ours"]["beside"] == [{"images/s": 32.0, "accuracy": 0.75}] * 2
    assert "accuracy 0.75" in table(figures)


def test_the_table_says_figures_ratio_promise_and_what_was_reached() -> None:
    figures = measure(
        comparison(
            told([0.002, 0.004], [0.001, 0.001], accuracy=0.875), told([0.3, 0.3]), Limit(factor=80, faster=True)
        ),
        repeats=2,
    )
    text = table(figures)
    assert "ours" in text
    assert "3 ms" in text
    assert "2.5 ms to 3.5 ms" in text
    assert "accuracy 0.875" in text
    assert "112 (this / ours)" in text
    assert "at least 80" in text
    assert "NOT KEPT" not in text
    assert "NOT KEPT" in table(measure(comparison(told([1]), told([3]), Limit(factor=0.3)), repeats=1))


def test_bytes_are_said_as_such() -> None:
    figures = measure(comparison(told([1.5e9]), told([3e9]), Limit(factor=0.5), unit="bytes"), repeats=1)
    assert "1.5 GB" in table(figures)
    assert figures["others"][0]["kept"]


def test_peak_memory_counts_what_is_gone_again() -> None:
    size, page = 64 * 2**20, mmap.PAGESIZE

    def take() -> None:
        with mmap.mmap(-1, size) as taken:  # from the system: the heap may hold as much that was freed before
            taken[::page] = b"\1" * (size // page)

    peak = peak_extra(take)
    if sys.platform == "linux":
        assert peak is not None
        assert 0.9 * size < peak < 1.5 * size
    else:
        assert peak is None
