"""Trainings that take turns step by step."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from benchmarks.peers.stopwatch import Stopwatch
from benchmarks.pictures import generated
from benchmarks.steps import MODULES, bare, by_graft
from benchmarks.steps.turns import Turns
from benchmarks.stepwise import Stepwise, cells_for
from benchmarks.task import Task
from graft.config.faults import InputError, RunFailed
from graft.data.loader import KeyedLoader

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """A ResNet-18 at 64 pixels with five batches."""
    monkeypatch.chdir(ROOT)
    donor = tmp_path / "donor.safetensors"
    save_file(models.resnet18().state_dict(), donor)
    return Task(
        images=str(generated(tmp_path / "images", {"train": 20, "val": 4}, size=(40, 40))), donor=str(donor),
        library="torchvision", model="resnet18", head="fc", backbone="resnet18", freeze="none", trains=(),
        image_size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), epochs=1, batch_size=4,
        threads=torch.get_num_threads(), own_defaults=True,
    )  # fmt: skip


class Slow(io.StringIO):
    """Words that take a while to come."""

    def readline(self, *args: Any) -> str:
        began = process_time()
        while process_time() - began < 0.2:
            pass
        return super().readline(*args)


def test_a_turn_is_timed_from_the_word_to_the_steps_end_and_the_last_ends_the_training() -> None:
    told = io.StringIO()
    turns = Turns(told, Slow("\n\n"))
    turns()
    busy = process_time()
    while process_time() - busy < 0.05:
        pass
    turns()
    with pytest.raises(SystemExit):
        turns()
    first, second, third = (json.loads(line) for line in told.getvalue().splitlines())
    assert 0.05 <= second[1] < 0.2  # without what the word took
    assert second[0] >= 0.049  # another clock than the one that was waited by
    assert all(0 <= processor < 0.1 for _, processor in (first, third))


def test_a_step_of_grafts_ends_when_the_next_batch_is_asked_for() -> None:
    order: list[str] = []
    watched = by_graft.Watched(cast(KeyedLoader, ["a", "b", "c"]), lambda: order.append("stepped"))
    batches = iter(watched)
    for _ in range(len(watched)):  # as Lightning asks, which knows the length
        order.append(cast(str, next(batches)))
    assert order == ["a", "stepped", "b", "stepped", "c"]


def test_graft_and_the_bare_layers_step_over_the_same_kept_features(task: Task, tmp_path: Path) -> None:
    task = replace(task, freeze="layer1-3", trains=("layer4", "fc"), own_defaults=False)
    steps: list[int] = []
    by_graft.train(task, tmp_path / "graft.weights", Stopwatch(lambda: steps.append(1)))
    assert len(steps) == 4  # of 5 batches: nothing is asked for behind the last
    kept = sorted((tmp_path / "cache").rglob("*"))
    assert kept
    with pytest.raises(StopIteration):
        bare.train(task, tmp_path / "bare.weights", Stopwatch(iter([lambda: 0] * 3).__next__))
    assert sorted((tmp_path / "cache").rglob("*")) == kept
    run = by_graft.ready(task, tmp_path)
    batch = next(iter(run.data.train_dataloader()))
    assert batch["features"].shape == (4, 256, 4, 4)  # layer3's output
    assert run.trained(batch["features"]).shape == (4, 2)


def test_a_way_steps_when_it_is_asked_and_says_where_it_ended(task: Task, tmp_path: Path) -> None:
    with Stepwise("tutorial", task, tmp_path) as way:
        turns = [way.step() for _ in range(5)]
        with pytest.raises(RunFailed, match=r"training of tutorial ended behind step 5 with code 0: …"):
            way.step()
    assert all(turn.value > 0 and turn.processor for turn in turns)
    assert turns[1].beside == {"images/s": 4 / turns[1].value}


def test_the_last_words_of_a_way_that_fails_are_kept(task: Task, tmp_path: Path) -> None:
    with (
        Stepwise("nobody", task, tmp_path) as way,
        pytest.raises(RunFailed, match=r"(?s)with code 1: .*'nobody'$"),
    ):
        way.step()


def test_in_the_end_a_way_trains_what_is_left_of_its_steps_and_tells_its_accuracy(task: Task, tmp_path: Path) -> None:
    with Stepwise("tutorial", task, tmp_path) as way:
        way.step()
        assert way.reached() in [{"accuracy": right / 4} for right in range(5)]
        with pytest.raises(RunFailed, match="ended behind step 1 with code 0"):
            way.step()
    assert (tmp_path / "tutorial.weights").exists()


def test_grafts_way_is_that_which_it_measured_as_the_fastest_where_the_task_says_so(task: Task, tmp_path: Path) -> None:
    run = by_graft.ready(replace(task, tune=True), tmp_path)
    found = json.loads((tmp_path / "run" / "tune.json").read_text())
    assert len(found["tried"]) >= 3
    assert run.config.trainer.channels_last is found["chosen"]["channels_last"]
    assert run.config.optimizer.kwargs[found["chosen"]["update"]] is True
    outcome = by_graft.train(task, tmp_path / "other" / "graft.weights", Stopwatch())
    assert outcome.accuracy in [right / 4 for right in range(5)]
    assert not (tmp_path / "other" / "run" / "tune.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"tutorial", "bare"}))
def test_every_way_waits_behind_each_of_its_steps(name: str, task: Task, tmp_path: Path) -> None:
    """timm's ResNet-18 has the names of torchvision's."""
    if name == "timm":
        task = replace(task, library="timm")
    with Stepwise(name, task, tmp_path) as way:
        turns = [way.step() for _ in range(4)]
        assert way.reached() in [{"accuracy": pytest.approx(right / 4)} for right in range(5)]
    assert all(turn.value > 0 and cast(float, turn.processor) > 0 for turn in turns)
    assert turns[1].value < turns[0].value


def test_there_must_be_images_for_every_turn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--repeats: .* \(48 steps at most\)"):
        cells_for(60, 32, tmp_path / "many")
    images = cells_for(3, 8, tmp_path / "few")
    assert len(list((images / "train").glob("*/*"))) == 8 * 7
