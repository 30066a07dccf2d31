"""Stages: which tensor belongs where."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graft.config.faults import InputError
from graft.models.stages import Stage, Stages, check_partition, covers, declared_stages, tensor_names

NAMES = ("stem.weight", "stem.mean", "layer1.0.weight", "layer10.weight", "position", "fc.weight", "fc.bias")
STAGES = Stages(
    (Stage("stem", ("stem", "position")), Stage("layer1", ("layer1",)), Stage("layer2", ("layer10",))), ("fc",)
)


@pytest.mark.parametrize(
    ("prefix", "name", "answer"),
    [
        ("layer1", "layer1.0.weight", True),
        ("layer1", "layer1", True),
        ("layer1", "layer10.weight", False),
        ("layer1.0", "layer1.weight", False),
        ("position", "position", True),
        ("position", "position_bias", False),
    ],
)
def test_a_prefix_ends_at_a_dot(prefix: str, name: str, answer: bool) -> None:
    assert covers(prefix, name) is answer


def test_each_tensor_is_found_in_its_stage() -> None:
    assert [STAGES.stage_of(name) for name in NAMES] == ["stem", "stem", "layer1", "layer2", "stem", "head", "head"]
    assert STAGES.tensors("stem", NAMES) == ("stem.weight", "stem.mean", "position")
    assert STAGES.tensors("head", NAMES) == ("fc.weight", "fc.bias")
    assert (STAGES.names, STAGES.head) == (("stem", "layer1", "layer2"), "fc")
    assert [STAGES.index(name) for name in ("stem", "layer2", "head")] == [0, 2, 3]


def test_an_unknown_tensor_or_stage_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"received 'layer2\.weight'"):
        STAGES.stage_of("layer2.weight")
    with pytest.raises(InputError, match="received 'layer3'; try layer"):
        STAGES.tensors("layer3", NAMES)


def test_a_partition_holds_every_tensor_once() -> None:
    check_partition(STAGES, NAMES)


def test_what_breaks_a_partition_is_told_together() -> None:
    broken = Stages((Stage("stem", ("stem", "stm", "stem.*")), Stage("layer1", ("layer1", "layer1.0"))), ("fc",))
    with pytest.raises(InputError) as answer:
        check_partition(broken, NAMES)
    text = str(answer.value)
    assert "layer10.weight is in no stage" in text
    assert "layer1.0.weight is in layer1 (layer1) and layer1 (layer1.0)" in text
    assert "stem: stm covers no tensor; try stem" in text
    assert "stem: stem.* covers no tensor; try stem (a prefix, which stands for itself)" in text


def test_a_stage_left_empty_goes() -> None:
    smaller = STAGES.without(["layer10", "stem"])
    assert smaller.trunk == (Stage("stem", ("position",)), Stage("layer1", ("layer1",)))


def test_the_head_is_no_stage_of_the_trunk() -> None:
    with pytest.raises(InputError, match="one called 'head'"):
        declared_stages({"head": ["fc"]}, ["fc"])


def test_names_include_silent_buffers_and_every_name_of_a_shared_tensor() -> None:
    module = nn.Module()
    module.a, module.b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    module.b.weight = module.a.weight
    module.register_buffer("mask", torch.zeros(1), persistent=False)
    assert tensor_names(module) == ("a.weight", "b.weight", "mask")
