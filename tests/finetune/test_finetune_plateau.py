"""Decisions by a figure that stalls: a pure function of the figures, part of the checkpoint, exact after a resume."""

import math
import random

import pytest
import torch

from graft.config.schema import CheckpointConfig, SchedulerConfig, SchedulerKind, UnfreezeConfig, UnfreezeKind
from graft.finetune.module import FineTuning
from graft.finetune.plateau import Plateau
from graft.finetune.unfreeze import make_schedule
from graft.models.stages import tensor_names

EPOCH = 7  # steps
NAN = math.nan


def plateau(patience=2, min_delta=0.0, falls=True, releases=3):
    return Plateau(monitor="val/loss", falls=falls, patience=patience, min_delta=min_delta, releases=(None,) * releases)


@pytest.mark.parametrize(
    ("values", "options", "epochs"),
    [
        ([5, 4, 3, 2, 1], {}, []),
        ([5, 5, 5, 5, 5, 5], {}, [2, 4]),
        ([5, 4, 4, 3, 3, 3], {}, [5]),
        ([5, 6, 6, 4, 6, 6], {}, [2, 5]),  # an improvement begins the count anew
        ([5, 6, 6, 5.5, 5.2], {}, [2, 4]),  # better than after the release, but not than the best
        ([5, 4.99, 4.98, 4.97], {"min_delta": 0.1}, [2]),
        ([5, 4.8, 4.6, 4.4], {"min_delta": 0.1}, []),
        ([0.5, 0.4, 0.5, 0.6], {"falls": False}, [2]),
        ([1] * 9, {"patience": 1, "releases": 3}, [1, 2, 3]),
        ([NAN, NAN, NAN, 1, 2, 2], {}, [2, 5]),
        ([1, NAN, NAN, 0.5], {}, [2]),
        ([math.inf, 1, 0.9, 0.8], {"falls": False}, [3]),  # an infinite figure is none to be beaten
        ([], {}, []),
    ],
)
def test_what_is_decided(values, options, epochs):
    assert plateau(**options).decided(values) == epochs


def test_what_was_decided_stays_decided():
    """Of every prefix of every series: nothing that comes later changes an earlier decision (law 3)."""
    chance = random.Random(0)
    for _ in range(200):
        rule = plateau(patience=chance.randint(1, 3), min_delta=chance.choice([0.0, 0.1]), releases=4)
        values = [chance.choice([0.1, 0.2, 0.3, 0.5, NAN]) for _ in range(12)]
        whole = rule.decided(values)
        for length in range(13):
            assert rule.decided(values[:length]) == [epoch for epoch in whole if epoch < length]


@pytest.mark.parametrize(("epochs", "count"), [(1, 0), (3, 0), (4, 1), (5, 1), (6, 2), (30, 3)])
def test_what_so_many_epochs_leave_time_for(epochs, count):
    assert len(plateau().reachable(epochs)) == count


def schedule_of(tiny, freeze="backbone", **changes):
    network = tiny.network()
    return make_schedule(
        UnfreezeConfig(kind=UnfreezeKind.plateau, **changes), freeze, tiny.stages, tensor_names(network),
        checkpoint=CheckpointConfig(monitor="val/accuracy", direction="max"),
    )  # fmt: skip


def stages_of(schedule, decisions, total=10 * EPOCH):
    return [(phase.start_step, "+".join(phase.frozen.stages)) for phase in schedule.phases(EPOCH, total, decisions)]


def test_the_phases_are_a_function_of_schedule_decisions_and_progress(tiny):
    schedule = schedule_of(tiny)
    assert stages_of(schedule, []) == [(0, "stem+layer1+layer2+layer3")]
    decisions = [14, 35]
    assert stages_of(schedule, decisions) == [
        (0, "stem+layer1+layer2+layer3"), (14, "stem+layer1+layer2"), (35, "stem+layer1"),
    ]  # fmt: skip
    for step in range(10 * EPOCH):
        made = [decision for decision in decisions if decision <= step]
        known = schedule.frozen_at(step, EPOCH, 10 * EPOCH, made)
        assert known.names == schedule.frozen_at(step, EPOCH, 10 * EPOCH, decisions).names
    assert str(schedule.plateau) == "decided by val/accuracy, each time it has not improved for 2 epochs"


def test_every_state_that_may_come_counts_from_the_first_step(tiny):
    schedule = schedule_of(tiny)
    assert schedule.never_trained(EPOCH, 3 * EPOCH) == schedule.moments[0].frozen.names
    few = {name.split(".")[0] for name in schedule.never_trained(EPOCH, 6 * EPOCH)}
    assert few == {"conv1", "bn1", "layer1"}
    assert schedule.never_trained(EPOCH, 30 * EPOCH) == frozenset()
    assert schedule.unreached(EPOCH, 6 * EPOCH) == [
        "unfreeze: 6 epochs leave no time for the last 2 states of plateau (stem, nothing)"
    ]


class Stopped(Exception):
    pass


def tune(tiny, folder, resume="auto"):
    """Learns nothing, so that every epoch after the first stalls."""
    tuning = tiny.tuning(
        freeze="backbone",
        kind=UnfreezeKind.plateau,
        unfreeze={"patience": 1, "min_delta": 10.0, "warmup": "3 steps", "phase_factors": [1.0, 0.5]},
        scheduler=SchedulerConfig(kind=SchedulerKind.constant),
    )
    checkpoint = tiny.checkpoint(every_n_steps=2)
    return tuning, tiny.fit(
        tuning, tiny.Data(), folder, trainer=tiny.trainer(max_epochs=5), checkpoint=checkpoint, resume=resume
    )


def ending(folder):
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    optimizer = saved["optimizer_states"][0]
    tensors = [*saved["state_dict"].values(), *(v for held in optimizer["state"].values() for v in held.values())]
    rows = [{k: v for k, v in row.items() if "second" not in k} for row in saved["graft"]["history"]]
    return (
        [tensor.numpy().tobytes() for tensor in tensors],
        rows,
        optimizer["param_groups"],
        saved["graft"]["decisions"],
    )


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plateau")
    return *tune(tiny, folder), ending(folder)


def test_a_stage_thaws_at_each_stall_and_the_run_says_when(undisturbed):
    tuning, result, saved = undisturbed
    assert [row["frozen"] for row in result.history] == [
        "stem, layer1, layer2, layer3", "stem, layer1, layer2, layer3", "stem, layer1, layer2", "stem, layer1", "stem",
    ]  # fmt: skip
    assert saved[-1] == [14, 21, 28, 35]
    assert [(phase.start_step, phase.factor) for phase in result.phases] == [(0, 1.0), (14, 0.5), (21, 0.5), (28, 0.5)]
    assert result.frozen_verified is True
    assert {group.stage for group in tuning.plan.groups} == {"layer1", "layer2", "layer3", "head"}
    assert result.history[2]["lr/layer3"] == pytest.approx(0.005)
    assert result.history[1]["lr/layer3"] is None


@pytest.mark.parametrize("at", [13, 14, 23, 34])
def test_a_resume_after_a_decision_is_exact(tiny, tmp_path, monkeypatch, undisturbed, at):
    calls = iter(range(1000))
    step = FineTuning.training_step

    def stopping(self, *args):
        if next(calls) == at:
            raise Stopped
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, "training_step", stopping)
        with pytest.raises(Stopped):
            tune(tiny, tmp_path)
    _, result = tune(tiny, tmp_path)
    assert result.resumed_from is not None
    assert ending(tmp_path) == undisturbed[-1]
    assert result.phases == undisturbed[1].phases
