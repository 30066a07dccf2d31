"""The benchmark's arithmetic, and the command on a small model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from graft.benchmark import exceeded
from graft.benchmark.memory import peak_extra
from graft.benchmark.ratio import interleave, quartiles
from graft.cli import dispatch
from graft.config.faults import InputError


def test_ways_take_turns_and_the_warm_up_is_not_counted() -> None:
    order: list[str] = []
    now = 0.0

    def advance(name: str, by: float) -> None:
        nonlocal now
        order.append(name)
        now += by

    found = interleave(
        lambda: advance("ours", 3.0), lambda: advance("plain", 2.0), repeats=4, warm_up=1, clock=lambda: now
    )
    assert order == ["plain", "ours", "ours", "plain"] * 2 + ["plain", "ours"]
    assert found.ours == [3.0] * 4
    assert found.reference == [2.0] * 4
    assert found.ratio == (1.5, 1.5, 1.5)


def test_a_disturbance_of_both_leaves_the_ratio() -> None:
    durations: Iterator[float] = iter([1, 2, 20, 10, 1, 2])  # plain, ours; then ours, plain: a tenfold disturbance
    now = 0.0

    def advance() -> None:
        nonlocal now
        now += next(durations)

    assert interleave(advance, advance, repeats=3, warm_up=0, clock=lambda: now).ratio == (2.0, 2.0, 2.0)


def test_quartiles() -> None:
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)


def test_limits_that_are_exceeded_are_named() -> None:
    figures = {"ratio": 1.4, "limit": 1.3, "peak_extra_over_size": {"ours": 1.0}, "memory_limit": 1.2}
    assert exceeded(figures) == ["a ratio of 1.40 over 1.3"]
    assert exceeded({**figures, "ratio": 1.3, "peak_extra_over_size": {}}) == []
    assert exceeded({**figures, "ratio": 1.3, "peak_extra_over_size": {"ours": 1.5}}) == [
        "1.50 times the size in memory over 1.2"
    ]


def test_peak_memory_counts_what_is_gone_again() -> None:
    size = 64 * 2**20
    peak = peak_extra(lambda: bytearray(b"\1") * size)
    if sys.platform == "linux":
        assert peak is not None
        assert 0.9 * size < peak < 1.5 * size
    else:
        assert peak is None


def test_the_command_measures_and_writes_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    assert dispatch(["benchmark", "transfer", "--model", "squeezenet1_1", "--repeats", "3", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert len(figures["ours"]["seconds"]) == len(figures["reference"]["seconds"]) == 3
    assert figures["limit"] == 1.3
    assert 0.2 < figures["ratio"] < 50
    said = capsys.readouterr().out
    assert f"{figures['ratio']:.2f}" in said
    assert "load_file + load_state_dict" in said


@pytest.mark.parametrize(
    ("words", "said"), [(["--repeats", "0"], "--repeats 15"), (["--model", "resnet5"], "resnet50")]
)
def test_mistakes_are_answered(words: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        dispatch(["benchmark", "transfer", *words])
