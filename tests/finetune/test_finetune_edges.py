"""Limits and conditions of a training that only a value at their edge tells apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from graft.config.faults import RunFailed
from graft.config.schema import UnfreezeKind
from graft.finetune import module as module_file
from graft.finetune.methods.average import Average
from graft.finetune.route import Route


def test_a_plan_remembers_what_was_decided(tiny):
    plan = tiny.tuning(freeze="backbone", kind=UnfreezeKind.plateau).plan
    decided = plan.derived(decisions=[7])
    assert decided.decisions == (7,)
    assert [phase.start_step for phase in decided.phases] == [0, 7]
    assert decided.derived(batches=(2, 2)).decisions == (7,)
    assert plan.decisions == ()


@pytest.mark.parametrize(
    ("behind", "small"),
    [
        (nn.Linear(4, 3), True),
        (nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), True),
        (nn.Conv1d(4, 3, 1), False),  # three dimensions
        (nn.Linear(4, 4), False),  # more weights than the limit set below
        (nn.Identity(), False),
    ],
)
def test_a_step_is_small_where_few_weights_of_matrices_are_behind_the_cut(tiny, monkeypatch, behind, small):
    weights = 15 if isinstance(behind, nn.Linear) else 67
    monkeypatch.setattr(module_file, "SMALL", weights)
    tuning = tiny.tuning(freeze="backbone")
    tuning.route.behind["layer3"] = behind
    assert tuning.is_small is small


@pytest.mark.parametrize(("epochs", "words"), [(1, "after 1 epoch,"), (2, "after each of 2 epochs,")])
def test_a_training_without_any_number_counts_its_epochs(tiny, tmp_path, monkeypatch, epochs, words):
    tuning = tiny.tuning()
    monkeypatch.setattr(tuning.task, "loss", lambda outputs, target: torch.tensor(math.nan))
    with pytest.raises(RunFailed, match=words):
        tiny.fit(tuning, tiny.Data(), tmp_path, trainer=tiny.trainer(max_epochs=epochs))


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_the_mean_of_weights_lies_in_memory_as_it_is_told_to(tiny, memory_format):
    network = tiny.network()
    average = Average(Route(network, tiny.stages), 0.9, still=())
    average.to(torch.device("cpu"), memory_format)
    assert average.route.channels_last is (memory_format is torch.channels_last)
    assert average.network.layer1.conv.weight.is_contiguous(memory_format=memory_format)


def test_a_phase_is_entered_before_an_epoch_is_judged_only_while_training(tiny, monkeypatch):
    """Afterwards the weights of the best epoch are judged, whatever phase was the last."""
    tuning = tiny.tuning(freeze="backbone", kind=UnfreezeKind.lp_ft)
    tuning.adopt(tuning.plan)
    routes: list[int] = []
    monkeypatch.setattr(tuning, "_take_route", lambda phase: routes.append(phase.start_step))
    for state in ("validate", "test", "fit"):
        tuning.trainer = type(
            "Trainer", (), {"state": type("State", (), {"fn": state})(), "global_step": 9, "world_size": 1}
        )()
        tuning.on_validation_epoch_start()
    assert routes == [7]  # the phase of step 8, the last that was taken
