"""The rate of every group in every step: a pure function, so that asking twice changes nothing."""

import csv

import pytest

from graft.config.schema import SchedulerConfig, SchedulerKind, UnfreezeKind
from graft.finetune.groups import group_parameters
from graft.finetune.rates import Rates

EPOCH, TOTAL = 10, 40


def rates_of(tiny, freeze, kind, decisions=(), curve=lambda step: 1.0, **changes):
    network = tiny.network()
    schedule = tiny.schedule(network, freeze, kind, **changes)
    frozen = [state.names for state in schedule.states(EPOCH, TOTAL)]
    groups = {group.name: group for group in group_parameters(network, tiny.stages, tiny.optimizer(), frozen)}
    phases = schedule.phases(EPOCH, TOTAL, decisions)
    return Rates(curve, phases, schedule.warmup.steps(EPOCH, TOTAL)), groups


def series(rates, group, steps=range(TOTAL)):
    """Rates over optimizer.lr=0.01."""
    return [round(rates.of(group, step) / 0.01, 6) for step in steps]


def test_what_thaws_warms_up_and_what_trained_before_does_not(tiny):
    rates, groups = rates_of(tiny, "backbone", UnfreezeKind.gradual, warmup="4 steps")
    assert series(rates, groups["head"]) == [1.0] * TOTAL
    assert series(rates, groups["layer3"], range(9, 16)) == [1.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert series(rates, groups["layer2"], range(20, 25)) == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_warmup_is_on_top_of_the_curve(tiny):
    rates, groups = rates_of(tiny, "backbone", UnfreezeKind.lp_ft, warmup="2 steps", curve=lambda step: 1 / (step + 1))
    assert rates.of(groups["stem"], 10) == pytest.approx(0.01 / 11 / 2)
    assert rates.of(groups["stem"], 11) == pytest.approx(0.01 / 12)


def test_what_is_frozen_again_warms_up_again(tiny):
    table = {"1 epoch": "none", "2 epochs": "layer2", "3 epochs": "none"}
    rates, groups = rates_of(tiny, "layer2", UnfreezeKind.at, table=table, warmup="2 steps")
    assert [rates.thawed_at(groups["layer2"], step) for step in (5, 10, 19, 20, 29, 30, 39)] == [
        None, 10, 10, None, None, 30, 30,
    ]  # fmt: skip
    assert series(rates, groups["layer2"], (10, 11, 30, 31)) == [0.5, 1.0, 0.5, 1.0]
    assert [rates.thawed_at(groups["layer1"], step) for step in (0, 39)] == [0, 0]


def test_each_phase_has_its_factor_and_the_last_holds(tiny):
    rates, groups = rates_of(tiny, "backbone", UnfreezeKind.gradual, phase_factors=[1.0, 0.5, 0.1])
    assert series(rates, groups["head"], (0, 9, 10, 19, 20, 30, 39)) == [1.0, 1.0, 0.5, 0.5, 0.1, 0.1, 0.1]


def test_a_phase_that_is_decided_has_its_factor_too(tiny):
    changes = {"phase_factors": [1.0, 0.1], "warmup": "2 steps", "patience": 1}
    rates, groups = rates_of(tiny, "backbone", UnfreezeKind.plateau, decisions=[20], **changes)
    assert series(rates, groups["layer3"], (19, 20, 21)) == [1.0, 0.05, 0.1]
    assert series(rates, groups["head"], (19, 20)) == [1.0, 0.1]


def test_a_span_is_the_first_highest_and_last_rate_of_its_steps(tiny):
    curve = lambda step: 1.0 - abs(step - 17) / 100  # noqa: E731
    rates, groups = rates_of(tiny, "backbone", UnfreezeKind.gradual, curve=curve, warmup="5 steps")
    for group in groups.values():
        for phase in rates.phases:
            span = rates.span(group, phase)
            if rates.thawed_at(group, phase.start_step) is None:
                assert span is None
                continue
            told = [rates.of(group, step) for step in range(phase.start_step, phase.stop_step)]
            assert span == pytest.approx((told[0], max(told), told[-1]))


def test_the_optimizer_has_the_rates_of_the_step_that_it_takes(tiny, tmp_path):
    """Asked in every step of a training, through a thaw with its warm-up and a factor."""
    changes = {"start": "3 steps", "every": "6 steps", "warmup": "4 steps", "phase_factors": [1.0, 0.5]}
    one_cycle = SchedulerConfig(kind=SchedulerKind.one_cycle)
    tuning = tiny.tuning(freeze="backbone", kind=UnfreezeKind.gradual, unfreeze=changes, scheduler=one_cycle)
    seen = []
    step_of = tuning.training_step

    def watched(batch, batch_idx):
        held = tuning.optimizers(use_pl_optimizer=False).param_groups
        seen.append({group["name"]: group["lr"] for group in held})
        return step_of(batch, batch_idx)

    tuning.training_step = watched
    result = tiny.fit(tuning, tiny.Data(), tmp_path, trainer=tiny.trainer())
    assert len(seen) == 14
    for step, held in enumerate(seen):
        assert held == {group.name: tuning.plan.rates.of(group, step) for group in tuning.plan.groups}
    assert seen[3]["layer3"] == pytest.approx(seen[3]["head"] / 4)
    row = result.history[0]
    assert row["lr/head"] == seen[6]["head"]
    assert row["lr/layer3"] == seen[6]["layer3"]
    assert row["lr/layer2"] is None
    with open(tmp_path / "metrics.csv", newline="") as file:
        assert next(csv.DictReader(file))["lr/layer2"] == ""


def test_groups_are_there_from_the_first_step_and_stay(tiny, tmp_path):
    """Thawing adds no group and replaces none, and what is frozen has no gradient."""
    unfreeze = {"start": "3 steps", "every": "3 steps"}
    tuning = tiny.tuning(freeze="backbone", kind=UnfreezeKind.gradual, unfreeze=unfreeze)
    groups, idle = [], []
    step_of = tuning.training_step

    def watched(batch, batch_idx):
        groups.append([[id(p) for p in group["params"]] for group in tuning.optimizers().param_groups])
        frozen = tuning.watch.phase_at(tuning.global_step).frozen.names
        parameters = dict(tuning.network.named_parameters())
        idle.append(all(parameters[name].grad is None for name in frozen & set(parameters)))
        assert all(parameters[name].requires_grad == (name not in frozen) for name in parameters)
        return step_of(batch, batch_idx)

    tuning.training_step = watched
    tiny.fit(tuning, tiny.Data(), tmp_path, trainer=tiny.trainer(max_epochs=3))
    assert len(groups) == 21
    assert all(found == groups[0] for found in groups)
    assert {name for ids in groups[0] for name in ids} == {id(p) for p in tuning.network.parameters()}
    assert all(idle)
