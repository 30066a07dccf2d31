import math

import pytest
import torch
from torch import nn

from graft.config.faults import InputError
from graft.config.schema import OptimizerConfig, SchedulerConfig, SchedulerKind
from graft.config.values import values_of
from graft.finetune.groups import group_parameters
from graft.finetune.optimizer import build_optimizer, optimizer_names, rate_factor, state_numbers

TOTAL, EPOCH = 100, 10


def factors(kind, **changes):
    of_step = rate_factor(
        values_of(SchedulerConfig, {"kind": kind, **changes}, "scheduler"), steps_per_epoch=EPOCH, total_steps=TOTAL
    )
    return [of_step(step) for step in range(TOTAL)]


def test_constant_with_warmup():
    found = factors(SchedulerKind.constant, warmup="4 steps")
    assert found == [0.25, 0.5, 0.75] + [1.0] * 97


def test_cosine_with_warmup_falls_to_its_lowest():
    found = factors(SchedulerKind.cosine, warmup="10%", min_factor=0.1)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10] == 1.0
    assert found[55] == pytest.approx(0.55)  # half-way between 1 and 0.1
    assert found[99] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 89 / 90)) / 2)


def test_step_drops_each_time_so_much_has_passed():
    found = factors(SchedulerKind.step, every="3 epochs", gamma=0.1)
    assert [found[0], found[29], found[30], found[59], found[60], found[99]] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.001]
    )


@pytest.mark.parametrize(("total", "peak_at"), [(100, 0.3), (7, 0.3), (10, 0.25), (1000, 0.5)])
def test_one_cycle_is_torchs(total, peak_at):
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, pct_start=peak_at, div_factor=25, final_div_factor=400
    )
    of_step = rate_factor(
        SchedulerConfig(kind=SchedulerKind.one_cycle, peak_at=peak_at), steps_per_epoch=1, total_steps=total
    )
    for step in range(total):
        assert of_step(step) == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        if step + 1 < total:
            reference.step()


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (SchedulerKind.one_cycle, {"warmup": "1 epoch"}, r"scheduler\.warmup: expected 0, since one_cycle"),
        (SchedulerKind.cosine, {"warmup": "100%"}, r"scheduler\.warmup: expected less than the whole training"),
        (SchedulerKind.cosine, {"warmup": "never"}, r"scheduler\.warmup: expected \"2 epochs\""),
        (SchedulerKind.cosine, {"min_factor": 2}, r"scheduler\.min_factor: expected 0 to 1"),
        (SchedulerKind.step, {"every": 0}, r"scheduler\.every: expected more than nothing"),
        (SchedulerKind.one_cycle, {"peak_at": 1}, r"scheduler\.peak_at: expected a share"),
    ],
)
def test_a_schedule_that_cannot_be(kind, changes, message):
    with pytest.raises(InputError, match=message):
        factors(kind, **changes)


def build(tiny, **changes):
    network = tiny.network()
    config = tiny.optimizer(**changes)
    groups = group_parameters(network, tiny.stages, config)
    return network, groups, build_optimizer(groups, network, config)


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD), ("lamb", None), ("lion", None)]
)
def test_each_group_has_its_rate_and_decay_in_the_optimizer(tiny, name, kind):
    network, groups, optimizer = build(tiny, name=name, lr_scale={"head": 10})
    assert kind is None or isinstance(optimizer, kind)
    assert [group["name"] for group in optimizer.param_groups] == [group.name for group in groups]
    assert [group["lr"] for group in optimizer.param_groups] == [group.lr for group in groups]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [group.weight_decay for group in groups]
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in network.parameters())
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()


def test_arguments_reach_the_optimizer(tiny):
    _, _, optimizer = build(tiny, name="sgd", kwargs={"momentum": 0.9, "nesterov": True})
    assert optimizer.defaults["momentum"] == 0.9
    assert optimizer.defaults["nesterov"] is True
    assert optimizer.defaults["fused"] is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": "adamv"},
            r"optimizer\.name: expected adamw, sgd or an optimizer of timm's, received 'adamv'; try adam",
        ),
        ({"kwargs": {"momentun": 0.9}, "name": "sgd"}, r"optimizer\.kwargs: expected arguments of sgd \(momentum, "),
        ({"kwargs": {"betas": [2, 3]}}, r"optimizer\.kwargs: .*betas"),
        ({"kwargs": {"betas": [0.9, 0.99], "x": 1}, "name": "lion"}, r"optimizer\.kwargs: expected arguments of lion"),
    ],
)
def test_an_optimizer_that_cannot_be_built(tiny, changes, message):
    with pytest.raises(InputError, match=message):
        build(tiny, **changes)


SHAPES = [torch.Size([256, 128]), torch.Size([64])]
NUMBERS = 256 * 128 + 64


@pytest.mark.parametrize(
    ("name", "kwargs", "expected"),
    [
        ("adamw", {}, 2 * NUMBERS),
        ("adamw", {"amsgrad": True}, 3 * NUMBERS),
        ("sgd", {"momentum": 0.9}, NUMBERS),
        ("sgd", {}, 0),
        ("lion", {}, NUMBERS),
        ("sgdw", {}, NUMBERS),
        ("adan", {}, 4 * NUMBERS),
        ("adafactor", {}, 256 + 128 + 64),  # a row and a column of each matrix
        ("sgdp", {}, NUMBERS),  # looks at values, so it is counted on small parameters
    ],
)
def test_memory_of_the_optimizer_is_what_it_keeps(name, kwargs, expected):
    assert state_numbers(SHAPES, OptimizerConfig(name=name, kwargs=kwargs)) == expected


def test_timms_optimizers_are_known_by_name():
    assert {"adamw", "sgd", "lamb", "lion", "muon"} <= set(optimizer_names())
