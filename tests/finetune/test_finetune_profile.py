"""Time is counted once, to what spent it."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from graft.finetune.metrics import Shares


class Hand:
    """A clock that goes on by what the test says."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def profiled(*events: str | float) -> Shares:
    """Names start an action, those with a / in front end one, numbers let time pass."""
    hand = Hand()
    shares = Shares(hand)
    for event in events:
        if isinstance(event, float):
            hand.time += event
        elif event.startswith("/"):
            shares.stop(event[1:])
        else:
            shares.start(event)
    return shares


def test_an_action_s_time_is_without_what_it_calls():
    step, forward, backward = "optimizer_step", "training_step", "backward"
    shares = profiled(
        *("run_training_epoch", 1.0, "train_dataloader_next", 2.0, "/train_dataloader_next"),
        *(step, forward, 3.0, "/" + forward, backward, 4.0, "[Callback]mine", 0.5, "/[Callback]mine", "/" + backward),
        *(5.0, "/" + step, "save_checkpoint", 6.0, "/save_checkpoint", "/run_training_epoch"),
    )
    assert shares.seconds == {
        "rest": 1.0, "data": 2.0, "forward": 3.0, "backward": 4.5, "optimizer": 5.0, "checkpoint": 6.0,
    }  # fmt: skip
    assert shares.shares() == pytest.approx({name: value / 21.5 for name, value in shares.seconds.items()})
    assert list(shares.shares())[:2] == ["checkpoint", "optimizer"]


def test_an_action_without_a_share_counts_to_what_calls_it():
    hand = Hand()
    shares = Shares(hand)
    with shares.profile("run_training_epoch"), shares.profile("training_step"):
        hand.time += 1.0
        with shares.profile("[Callback]mine.on_before_anything"), shares.profile("[Strategy]its.reduce"):
            hand.time += 2.0
            with shares.profile("backward"):
                hand.time += 4.0
        hand.time += 8.0
    assert shares.seconds == {"forward": 11.0, "backward": 4.0}


def test_what_belongs_to_no_share_does_not_count():
    assert profiled("setup", 3.0, "validation_step", 2.0, "/validation_step", 1.0, "/setup", 4.0).seconds == {
        "evaluation": 2.0
    }


def test_an_action_that_broke_off_is_ended_by_the_one_around_it():
    shares = profiled("run_training_epoch", "val_next", 1.0, "/run_training_epoch", 9.0)
    assert shares.seconds == {"evaluation": 1.0}


def test_an_action_ends_with_its_block_however_that_ends():
    hand = Hand()
    shares = Shares(hand)
    with suppress(ValueError), shares.profile("backward") as name:
        hand.time += 2.0
        raise ValueError
    hand.time += 5.0
    with shares.profile("validation_step"):
        hand.time += 1.0
    assert (name, shares.seconds) == ("backward", {"backward": 2.0, "evaluation": 1.0})


def fitted(tiny, folder, **settings):
    return tiny.fit(tiny.tuning(), tiny.Data(), folder, trainer=tiny.trainer(**settings), checkpoint=tiny.checkpoint())


def test_a_training_says_where_its_time_went(tiny, tmp_path):
    before = time.perf_counter()
    result = fitted(tiny, tmp_path)
    assert before < result.first_step < time.perf_counter() - result.profile["backward"] * result.seconds
    assert fitted(tiny, tmp_path).first_step is None  # it had finished, and was evaluated
    profile = result.profile
    assert sum(profile.values()) == pytest.approx(1.0)
    assert set(profile) == {"data", "forward", "backward", "optimizer", "evaluation", "checkpoint", "rest"}


def test_torch_s_profiler_leaves_a_trace(tiny, tmp_path):
    assert fitted(tiny, tmp_path, profiler="torch", max_epochs=1).profile == {}
    (trace,) = tmp_path.glob("fit-profile-*training_step*.json")
    assert "aten::conv2d" in trace.read_text()
