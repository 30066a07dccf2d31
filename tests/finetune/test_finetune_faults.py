"""What is wrong with a training's settings, in the words that its user reads; and what plans and files say exactly."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
import torch

from graft.config.choices import TaskKind
from graft.config.faults import InputError, RunFailed
from graft.config.schema import (
    CheckpointConfig,
    FreezeBatchNorm,
    SchedulerConfig,
    SchedulerKind,
    UnfreezeKind,
)
from graft.config.values import values_of
from graft.finetune.callbacks import Agreement, epoch_line
from graft.finetune.fit import fit
from graft.finetune.freeze import check_tied, parse_freeze, unmoving
from graft.finetune.groups import group_parameters
from graft.finetune.optimizer import rate_factor
from graft.finetune.progress import TrainingClock
from graft.finetune.rate_search import STEPS, RangeTest, rate_at, steepest
from graft.finetune.step_search import Measured, SearchResult, Way
from graft.finetune.training_plan import Timeline
from graft.models.stages import tensor_names

FORMS = "none, backbone, a stage, or a range such as layer1-3, joined by +"
STAGES = "stem, layer1, layer2, layer3"
LITERAL = "(literal name prefixes go in a list: freeze=[…])"


def said(call, kind=InputError):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


EXPRESSIONS = {
    "layer9": f"freeze: expected {FORMS}, of the stages {STAGES}; received 'layer9', which names none; try "
    f"layer3 {LITERAL}",
    "zzz": f"freeze: expected {FORMS}, of the stages {STAGES}; received 'zzz', which names none {LITERAL}",
    "stem+none": f"freeze: expected {FORMS}, of the stages {STAGES}; received 'none', which names none; try "
    f"none {LITERAL}",
    "layer3-1": "freeze: expected a range towards the head, received layer3 to layer1; try layer1-layer3",
    "layer1-9": f"freeze: expected {FORMS}, of the stages {STAGES}; received 'layer9', which names none; try "
    f"layer3 {LITERAL}",
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_stage_that_there_is_not_is_told_with_those_that_there_are(tiny, expression):
    names = tensor_names(tiny.network())
    assert said(lambda: parse_freeze(expression, tiny.stages, names)) == EXPRESSIONS[expression]


def test_a_prefix_that_matches_nothing_is_told_with_what_it_may_mean(tiny):
    names = tensor_names(tiny.network())

    def told(*prefixes):
        return said(lambda: parse_freeze(list(prefixes), tiny.stages, names, "unfreeze.table[1 epoch]"))

    begin = "unfreeze.table[1 epoch]: expected name prefixes, received"
    assert (
        told("layr1") == f"{begin} 'layr1', which matches no parameter (stages: {STAGES}); try layer1, layer3, layer2"
    )
    assert told("stem") == (
        f"{begin} 'stem', which matches no parameter (stages: {STAGES}); try unfreeze.table[1 epoch]=stem without "
        "brackets, which names the stage"
    )
    assert said(lambda: parse_freeze(7, tiny.stages, names)) == (
        f"freeze: expected {FORMS}; or a list of name prefixes; received 7; try none"
    )


READ = [
    ("none", (), (), (), "nothing"),
    ("backbone", ("stem", "layer1", "layer2", "layer3"), (), (), "stem, layer1, layer2, layer3"),
    ("layer1-2", ("stem", "layer1", "layer2"), (), ("stem",), "stem, layer1, layer2 (stem implied)"),
    ("layer2-layer3", ("layer2", "layer3"), (), (), "layer2, layer3"),
    ("layer1-2+stem", ("stem", "layer1", "layer2"), (), (), "stem, layer1, layer2"),
    ("layer1+head", ("layer1", "head"), (), (), "layer1, head"),
    (["layer1.conv", "bn1"], (), ("stem", "layer1"), (), "part of stem, part of layer1"),
    (["layer1", "fc.bias"], ("layer1",), ("head",), (), "layer1, part of head"),
]


@pytest.mark.parametrize(("expression", "stages", "parts", "implied", "told"), READ)
def test_an_expression_is_read_into_stages_whole_and_in_part(tiny, expression, stages, parts, implied, told):
    names = tensor_names(tiny.network())
    frozen = parse_freeze(expression, tiny.stages, names)
    assert (frozen.stages, frozen.parts, frozen.implied, str(frozen)) == (stages, parts, implied, told)
    assert frozen.expression == (expression if isinstance(expression, str) else f"[{','.join(expression)}]")
    wanted = {name for name in names if tiny.stages.stage_of(name) in stages}
    assert wanted <= frozen.names


def test_one_of_two_tied_names_cannot_be_frozen_alone(tiny):
    module = tiny.network()
    module.layer2.conv.weight = module.layer1.conv.weight
    frozen = parse_freeze(["layer1"], tiny.stages, tensor_names(module))
    assert said(lambda: check_tied(module, frozen)) == (
        "freeze: expected tied tensors to be frozen together, received [layer1], which freezes "
        "layer1.conv.weight and not "
        "layer2.conv.weight, the same tensor"
    )


@pytest.mark.parametrize("norms", list(FreezeBatchNorm))
def test_what_keeps_every_bit_is_a_function_of_what_is_frozen_and_of_freeze_bn(tiny, norms):
    module = tiny.network()
    module.fc = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))
    names = tensor_names(module)
    frozen = parse_freeze("layer1", tiny.stages, names)
    running = {name for name in names if "running" in name or "num_batches" in name}
    expected = {
        FreezeBatchNorm.none: frozen.names - running,
        FreezeBatchNorm.frozen: frozen.names,
        FreezeBatchNorm.all: frozen.names | {name for name in running if not name.startswith("fc.")},
    }
    assert unmoving(module, frozen, norms, heads=["fc"]) == expected[norms]


OPTIMIZERS = {
    "optimizer.lr: expected a number above 0, received 0.0 (freeze what must not move)": {"lr": 0.0},
    "optimizer.lr: expected a number above 0, received inf (freeze what must not move)": {"lr": math.inf},
    "optimizer.lr_scale[stem]: expected a number above 0, received -1.0 (freeze what must not move)": {
        "lr_scale": {"stem": -1.0}
    },
    "optimizer.layer_decay: expected above 0 and at most 1, received 1.5; try 0.75": {"layer_decay": 1.5},
    "optimizer.layer_decay: expected above 0 and at most 1, received 0; try 0.75": {"layer_decay": 0},
    "optimizer.weight_decay: expected 0 or more, received -0.1": {"weight_decay": -0.1},
    "optimizer.weight_decay: expected 0 or more, received nan": {"weight_decay": math.nan},
    f"optimizer.lr_scale: expected stages ({STAGES}), head, backbone or name prefixes, received 'layer9', which "
    f"matches no "
    "parameter; try layer3, layer2, layer1": {"lr_scale": {"layer9": 0.1}},
    f"optimizer.lr_scale: expected stages ({STAGES}), head, backbone or name prefixes, received 'stem', which "
    f"matches only "
    "parameters that never train; try removing it, or freezing less": {"lr_scale": {"stem": 0.1}},
    f"optimizer.lr_scale: expected stages ({STAGES}), head, backbone or name prefixes, received 'layer1', which has no "
    "effect, as closer keys cover all that it matches; try removing it": {
        "lr_scale": {"layer1": 0.1, "layer1.conv": 0.2, "layer1.bn": 0.3}
    },
    "optimizer.no_decay: expected globs of parameters that train, received 'conv1.*', which names only such as "
    "never do; "
    "try removing it, or freezing less": {"no_decay": ["conv1.*"]},
}


@pytest.mark.parametrize("told", OPTIMIZERS)
def test_a_rate_that_cannot_be_is_told(tiny, told):
    module = tiny.network()
    frozen = parse_freeze("stem", tiny.stages, tensor_names(module)).names
    optimizer = tiny.optimizer(**OPTIMIZERS[told])
    assert said(lambda: group_parameters(module, tiny.stages, optimizer, [frozen])) == told


SCHEDULERS = {
    "scheduler.min_factor: expected 0 to 1, received 1.5": {"min_factor": 1.5},
    "scheduler.peak_at: expected a share between 0 and 1, received 1.0": {"peak_at": 1.0},
    "scheduler.start_factor: expected above 0 and at most 1, received 0.0": {"start_factor": 0.0},
    "scheduler.end_factor: expected 0 to 1, received -0.1": {"end_factor": -0.1},
    "scheduler.gamma: expected above 0 and at most 1, received 0.0": {"gamma": 0.0},
    "scheduler.warmup: expected 0, since one_cycle rises by itself, received '2 steps'; try scheduler.peak_at": {
        "kind": SchedulerKind.one_cycle, "warmup": "2 steps",
    },
    "scheduler.warmup: expected less than the whole training (40 steps), received '4 epochs', which is 40 "
    "steps; try 5%": {
        "kind": SchedulerKind.cosine, "warmup": "4 epochs",
    },
    "scheduler.every: expected more than nothing, received '0 epochs'; try 10 epochs": {
        "kind": SchedulerKind.step, "warmup": "0 steps", "every": "0 epochs",
    },
}  # fmt: skip


@pytest.mark.parametrize("told", SCHEDULERS)
def test_a_curve_that_cannot_be_is_told(told):
    config = values_of(SchedulerConfig, SCHEDULERS[told], "scheduler")
    assert said(lambda: rate_factor(config, steps_per_epoch=10, total_steps=40)) == told


CURVES = [
    ({"kind": "constant", "warmup": "4 steps"}, {0: 0.25, 3: 1.0, 4: 1.0, 39: 1.0}),
    ({"kind": "cosine", "warmup": "0 steps", "min_factor": 0.2}, {0: 1.0, 20: 0.6, 40: 0.2, 99: 0.2}),
    ({"kind": "cosine", "warmup": "20 steps", "min_factor": 0.0}, {0: 0.05, 19: 1.0, 20: 1.0, 30: 0.5, 40: 0.0}),
    ({"kind": "step", "warmup": "0 steps", "every": "1 epoch", "gamma": 0.5}, {0: 1.0, 9: 1.0, 10: 0.5, 39: 0.125}),
    ({"kind": "one_cycle", "warmup": "0 steps", "peak_at": 0.5, "start_factor": 0.1, "end_factor": 0.0},
     {0: 0.1, 19: 1.0, 29: 0.5, 39: 0.0, 60: 0.0}),
]  # fmt: skip


@pytest.mark.parametrize(("config", "factors"), CURVES)
def test_a_curve_has_its_values(config, factors):
    config = {**config, "kind": SchedulerKind(config["kind"])}
    curve = rate_factor(values_of(SchedulerConfig, config, "scheduler"), steps_per_epoch=10, total_steps=40)
    assert {step: curve(step) for step in factors} == pytest.approx(factors)


SCHEDULES = {
    "unfreeze: expected something frozen to thaw, received unfreeze=gradual with freeze=none; try freeze=backbone, or "
    "unfreeze=never": ("none", UnfreezeKind.gradual, {}),
    "unfreeze: expected something frozen to thaw, received unfreeze=lp_ft with freeze=none; try freeze=backbone, or "
    "unfreeze=never": ("none", UnfreezeKind.lp_ft, {}),
    "freeze: expected backbone, since unfreeze=lp_ft begins with the head alone, received layer2; try "
    "freeze=backbone, or "
    "unfreeze=at for other spans": ("layer2", UnfreezeKind.lp_ft, {}),
    "unfreeze.every: expected more than nothing, received '0 epochs'; try 1 epoch": (
        "backbone", UnfreezeKind.gradual, {"every": "0 epochs"},
    ),
    "unfreeze.start: expected the unit of unfreeze.every (1 epoch), received 3 steps; try 1 epoch": (
        "backbone", UnfreezeKind.gradual, {"start": "3 steps", "every": "1 epoch"},
    ),
    'unfreeze.table: expected moments with freeze expressions, received none; try {"3 epochs": none}': (
        "backbone", UnfreezeKind.at, {},
    ),
    "freeze: expected something left to train, received backbone+head, which freezes every parameter; try backbone": (
        "backbone+head", UnfreezeKind.never, {},
    ),
    "freeze: expected something left to train, received backbone+head, which freezes every parameter from 2 "
    "epochs on; try "
    "backbone": ("backbone", UnfreezeKind.at, {"table": {"2 epochs": "backbone+head"}}),
    "unfreeze.phase_factors: expected at most 1 factors, one a phase, received 2; try [1]": (
        "backbone", UnfreezeKind.never, {"phase_factors": [1.0, 0.5]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("told", SCHEDULES)
def test_a_schedule_that_cannot_be_is_told(tiny, told):
    freeze, kind, changes = SCHEDULES[told]
    assert said(lambda: tiny.schedule(tiny.network(), freeze, kind, **changes)) == told


def test_moments_that_a_training_does_not_reach_are_told(tiny):
    late = tiny.schedule(tiny.network(), "backbone", UnfreezeKind.at, table={"3 epochs": "layer1", "9 epochs": "none"})
    assert late.unreached(10, 40) == [
        "unfreeze: 9 epochs is step 90 of 40, so what would be frozen then (nothing) never comes about"
    ]
    assert [phase.to_dict() for phase in late.phases(10, 40)] == [
        {"start_epoch": 0.0, "start_step": 0, "stop_step": 30, "frozen": "backbone",
         "frozen_stages": ["stem", "layer1", "layer2", "layer3"], "factor": 1.0},
        {"start_epoch": 3.0, "start_step": 30, "stop_step": 40, "frozen": "layer1", "frozen_stages": ["layer1"],
         "factor": 1.0},
    ]  # fmt: skip
    assert [late.frozen_at(step, 10, 40).expression for step in (0, 29, 30)] == ["backbone", "backbone", "layer1"]
    plateau = tiny.schedule(tiny.network(), "backbone", UnfreezeKind.plateau, patience=2)
    (remark,) = plateau.unreached(10, 40)
    assert re.fullmatch(r"unfreeze: 4 epochs leave no time for the last \d states of plateau \(.*\)", remark)


def test_steps_of_a_training_count_the_last_incomplete_one():
    timeline = Timeline(images=26, epochs=3, batch_size=4, accumulate=2, processes=2)
    assert (timeline.batches_per_epoch, timeline.steps_per_epoch, timeline.total_steps) == (4, 2, 6)
    one = dataclasses.replace(timeline, processes=1)
    assert (one.batches_per_epoch, one.steps_per_epoch, one.total_steps) == (7, 4, 12)
    for changes, told in (
        ({"epochs": 0}, "trainer.max_epochs: expected 1 or more, received 0"),
        ({"accumulate": 0}, "trainer.accumulate: expected 1 or more, received 0"),
    ):
        assert said(lambda changes=changes: dataclasses.replace(timeline, **changes)) == told


def test_a_figure_or_a_count_of_checkpoints_that_cannot_be_is_told(tiny, tmp_path):
    odd = CheckpointConfig(every_n_steps=0)
    told = said(lambda: fit(tiny.tuning(), tiny.Data(), tmp_path, trainer=tiny.trainer(), checkpoint=odd))
    assert told == "checkpoint.every_n_steps: expected 1 or more, received 0"


def test_rates_of_a_range_test_rise_by_a_factor_and_its_end_is_told():
    assert (rate_at(0), rate_at(STEPS - 1)) == pytest.approx((1e-6, 10.0))
    factors = [rate_at(step + 1) / rate_at(step) for step in range(20)]
    assert factors == pytest.approx([factors[0]] * 20)
    rates = [rate_at(step) for step in range(30)]
    falls_nowhere = "optimizer.lr=find: expected a loss that falls before it diverges, received"
    remedy = "; try optimizer.lr=1e-3, or another freeze"
    assert said(lambda: steepest(rates, [1.0 + step for step in range(30)]), RunFailed) == (
        f"{falls_nowhere} its lowest value at step 1 of the range test{remedy}"
    )
    assert said(lambda: steepest(rates, [math.nan]), RunFailed) == f"{falls_nowhere} no finite one{remedy}"
    found = RangeTest(suggestion=0.1, rates=(1.0,), losses=(2.0,), smoothed=(3.0,))
    assert found.to_dict() == {
        "rule": "steepest descent of the smoothed loss over log10 of the rate", "suggestion": 0.1, "rates": (1.0,),
        "losses": (2.0,), "smoothed": (3.0,),
    }  # fmt: skip


def test_tune_json_says_what_was_tried_and_by_which_tolerance():
    way = Way(channels_last=True, precision="32-true", update="fused")
    plain = Measured(way=way, seconds=1.0, losses=(2.0, 0.5), gradient=4.0)
    other = dataclasses.replace(plain, losses=(2.2, 0.4), gradient=3.0).beside(plain)
    assert (other.off, other.gradient_off) == (pytest.approx(0.1), 0.25)  # of a loss below 1, over 1
    lost = dataclasses.replace(plain, losses=(math.nan, 0.5)).beside(plain)
    assert (lost.off, lost.holds, other.holds, plain.holds) == (math.inf, False, False, True)
    written = {"channels_last": True, "precision": "32-true", "compile": False, "update": "fused"}
    assert SearchResult(way=way, tried=(plain,)).to_dict() == {
        "chosen": written, "tolerance": 0.02, "gradient_tolerance": 0.5,
        "tried": [{**written, "seconds": 1.0, "off": 0.0, "gradient_off": 0.0}],
    }  # fmt: skip


def test_an_epoch_is_one_line():
    row = {
        "epoch": 2, "train/loss": 0.5, "train/accuracy": 0.75, "val/loss": 0.25, "val/accuracy": 0.5, "val/f1": 0.125,
        "val/auroc": 0.9, "lr": 0.001, "images_per_second": 12.34, "frozen": "stem",
    }  # fmt: skip
    line = (
        "epoch 2/9  train loss 0.5000 · accuracy 0.7500 · val loss 0.2500 · accuracy 0.5000 · macro-F1 0.1250 · "
        "lr 1.00e-03 · 12.3 images/s"
    )
    assert epoch_line([row, row], 9, TaskKind.single_label) == line
    assert epoch_line([{**row, "frozen": "nothing"}, row], 9, TaskKind.single_label) == f"{line} · frozen stem"
    assert epoch_line([row], 9, TaskKind.single_label) == f"{line} · frozen stem"


def test_one_process_agrees_with_itself():
    assert [Agreement().highest(number) for number in (0, 15)] == [0, 15]


def test_a_clock_counts_activities_apart_and_laps_from_one_to_the_next(monkeypatch):
    moments = iter([10.0, 11.0, 13.0, 17.0, 25.0, 26.0, 30.0, 31.0])
    monkeypatch.setattr("graft.finetune.progress.time.perf_counter", lambda: next(moments))
    clock = TrainingClock()
    clock.go("training")  # at 10
    clock.step()  # at 11
    clock.images += 8
    clock.go("evaluation")  # at 13
    clock.go(None)  # at 17
    assert clock.seconds == {"training": 3.0, "evaluation": 4.0}
    assert (clock.first_step, clock.lap(), clock.lap()) == (11.0, (3.0, 8), (0.0, 0))
    clock.go("training")  # at 25
    clock.step()  # not the first
    clock.images += 4
    state = clock.state()  # at 26
    assert state == {"seconds": {"training": 4.0, "evaluation": 4.0}, "images": 12, "lap": [3.0, 8]}
    other = TrainingClock()
    other.restore(state)
    assert (other.state(), other.lap()) == (state, (1.0, 4))
    clock.go(None)  # at 31, as the other looked at 30
    assert clock.seconds["training"] == 9.0
