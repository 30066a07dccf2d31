"""graft's own steps in turns with another step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from graft.benchmark.case import Measured
from graft.benchmark.donors import write_donor
from graft.benchmark.pictures import generated
from graft.benchmark.stepwise import InTurns, Recorded, in_turns
from graft.data.loader import KeyedLoader

ROOT = Path(__file__).resolve().parents[2]


def test_each_step_but_the_first_and_last_is_counted_with_the_other_behind_it() -> None:
    order: list[str] = []

    def make(trained: torch.nn.Module, batch: Any) -> Callable[[], object]:
        order.append(f"made of {batch}")
        return lambda: order.append("other")

    turns = InTurns(cast(KeyedLoader, ["a", "b", "c", "d"]), make, torch.nn.Identity())
    handed_out = iter(turns)
    for _ in range(len(turns)):  # as Lightning asks, which knows the length
        order.append(cast(str, next(handed_out)))
    assert order == ["made of a", "a", "b", "other", "c", "other", "d"]
    assert len(turns.ours) == len(turns.other) == 2


def test_a_recording_runs_once_when_it_is_asked_for() -> None:
    runs: list[int] = []

    def run() -> tuple[list[Measured], list[Measured]]:
        runs.append(1)
        return [Measured(value=1), Measured(value=2)], [Measured(value=3), Measured(value=4)]

    recorded = Recorded(run)
    assert runs == []
    other, ours = recorded.other, recorded.ours
    assert [other().value, ours().value, ours().value, other().value] == [3, 1, 2, 4]
    assert runs == [1]


def test_a_training_from_kept_features_hands_them_to_the_other_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    images = generated(tmp_path / "images", {"train": 20, "val": 4}, size=(40, 40))
    donor, _ = write_donor("resnet18", tmp_path)
    seen: list[tuple[int, ...]] = []

    def make(trained: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Callable[[], object]:
        seen.append(tuple(batch["features"].shape))
        return lambda: trained(batch["features"])

    words = [
        "backbone=resnet18", "donor=file", f"donor.path={donor}", "data=folder", f"data.root={images}",
        "data.image_size=64", "data.batch_size=4", "freeze=layer1-3", "cache=features", f"cache.dir={tmp_path / 'c'}",
        "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.progress=false",
    ]  # fmt: skip
    ours, other = in_turns(words, tmp_path / "run", make)
    assert seen == [(4, 256, 4, 4)]  # layer3's output
    assert len(ours) == len(other) == 3  # of 5 batches
    assert all(turn.value > 0 for turn in (*ours, *other))
