import pytest
import torch
from torch import nn

from graft.config.faults import InputError
from graft.finetune.groups import group_parameters
from graft.models.stages import Stage, Stages


def rates(tiny, **changes):
    """{parameter name: lr over optimizer.lr}."""
    groups = group_parameters(tiny.network(), tiny.stages, tiny.optimizer(**changes))
    return {name: group.lr / 0.01 for group in groups for name in group.names}


def test_every_parameter_is_in_exactly_one_group(tiny):
    network = tiny.network()
    groups = group_parameters(network, tiny.stages, tiny.optimizer())
    names = [name for group in groups for name in group.names]
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())
    assert sum(group.parameters for group in groups) == sum(p.numel() for p in network.parameters())
    assert [group.name for group in groups][:3] == ["stem", "stem/no_decay", "layer1"]


def test_groups_are_by_identity_not_by_value(tiny):
    """Equal values in two places are two parameters; one parameter in two places is one."""
    network = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "c": nn.Linear(2, 2)})
    with torch.no_grad():
        for part in network.values():
            part.weight.fill_(1.0)
            part.bias.fill_(1.0)
    network["c"].weight = network["b"].weight
    stages = Stages(trunk=(Stage("a", ("a",)), Stage("b", ("b",))), heads=("c",))
    groups = {group.name: group.names for group in group_parameters(network, stages, tiny.optimizer())}
    assert groups == {
        "a": ("a.weight",),
        "a/no_decay": ("a.bias",),
        "b": ("b.weight",),
        "b/no_decay": ("b.bias",),
        "head/no_decay": ("c.bias",),
    }


def test_no_decay_on_biases_norms_and_what_has_one_dimension(tiny):
    network = tiny.network()
    network.layer1.scale = nn.Parameter(torch.ones(4))
    network.layer2.norm = nn.LayerNorm([4, 8])
    groups = group_parameters(network, tiny.stages, tiny.optimizer(weight_decay=0.3))
    decay = {name: group.weight_decay for group in groups for name in group.names}
    decayed = {name for name, value in decay.items() if value == 0.3}
    assert decayed == {"conv1.weight", "layer1.conv.weight", "layer2.conv.weight", "layer3.conv.weight", "fc.weight"}
    assert all(value == 0.0 for name, value in decay.items() if name not in decayed)


def test_what_never_trains_is_left_out(tiny):
    network = tiny.network()
    never = frozenset(name for name, _ in network.named_parameters() if not name.startswith("fc"))
    groups = group_parameters(network, tiny.stages, tiny.optimizer(), [never])
    assert [group.names for group in groups] == [("fc.weight",), ("fc.bias",)]


def test_what_thaws_at_another_time_is_a_group_of_its_own(tiny):
    network = tiny.network()
    states = [{"layer1.conv.weight", "layer2.conv.weight"}, {"layer1.conv.weight", "layer1.bn.weight"}, set()]
    groups = group_parameters(network, tiny.stages, tiny.optimizer(), states)
    names = {group.name: group.names for group in groups if group.stage in ("layer1", "layer2", "layer3")}
    assert names == {
        "layer1 part 1": ("layer1.conv.weight",),
        "layer1 part 2/no_decay": ("layer1.bn.weight",),
        "layer1 part 3/no_decay": ("layer1.bn.bias",),
        "layer2 part 1": ("layer2.conv.weight",),
        "layer2 part 2/no_decay": ("layer2.bn.weight", "layer2.bn.bias"),
        "layer3": ("layer3.conv.weight",),
        "layer3/no_decay": ("layer3.bn.weight", "layer3.bn.bias"),
    }


@pytest.mark.parametrize(
    ("lr_scale", "name", "factor"),
    [
        ({}, "fc.weight", 1),
        ({"head": 10}, "fc.weight", 10),
        ({"head": 10}, "layer3.conv.weight", 1),
        ({"fc": 10}, "fc.bias", 10),
        ({"head": 10, "fc.bias": 2}, "fc.bias", 2),
        ({"backbone": 0.1}, "conv1.weight", 0.1),
        ({"backbone": 0.1}, "fc.weight", 1),
        ({"backbone": 0.1, "layer3": 0.5}, "layer3.bn.weight", 0.5),
        ({"layer3": 0.5, "layer3.bn": 0.2}, "layer3.bn.weight", 0.2),
        ({"layer3": 0.5, "layer3.bn": 0.2}, "layer3.conv.weight", 0.5),
        ({"stem": 0.1, "conv1": 0.2}, "conv1.bias", 0.2),
        ({"stem": 0.1, "conv1": 0.2}, "bn1.bias", 0.1),
        ({"conv1.weight": 3}, "conv1.weight", 3),
    ],
)
def test_the_longest_prefix_that_fits_wins(tiny, lr_scale, name, factor):
    assert rates(tiny, lr_scale=lr_scale)[name] == pytest.approx(factor)
    assert rates(tiny, lr_scale=dict(reversed(lr_scale.items())))[name] == pytest.approx(factor)


def test_a_stage_whose_prefix_is_longer_beats_a_shorter_literal(tiny):
    network = nn.ModuleDict({"features": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), "fc": nn.Linear(2, 2)})
    stages = Stages(trunk=(Stage("stem", ("features.0",)), Stage("block1", ("features.1",))), heads=("fc",))
    config = tiny.optimizer(lr_scale={"features": 0.1, "block1": 0.5})
    found = {name: group.factor for group in group_parameters(network, stages, config) for name in group.names}
    assert found["features.0.weight"] == 0.1
    assert found["features.1.weight"] == 0.5


def test_layer_decay_falls_towards_the_input_and_multiplies_with_the_scale(tiny):
    found = rates(tiny, layer_decay=0.5, lr_scale={"layer2": 3})
    assert found["fc.weight"] == pytest.approx(1)
    assert found["layer3.conv.weight"] == pytest.approx(0.5)
    assert found["layer2.conv.weight"] == pytest.approx(0.25 * 3)
    assert found["conv1.weight"] == pytest.approx(0.0625)


def test_a_stage_with_several_factors_has_a_group_for_each(tiny):
    groups = group_parameters(tiny.network(), tiny.stages, tiny.optimizer(lr_scale={"layer3.conv": 0.5}))
    assert [group.name for group in groups if group.stage == "layer3"] == ["layer3 ×0.5", "layer3/no_decay ×1"]


@pytest.mark.parametrize(
    ("changes", "never", "message"),
    [
        ({"lr_scale": {"layer9": 0.1}}, (), r"received 'layer9', which matches no parameter; try layer"),
        (
            {"lr_scale": {"layer1.*": 0.1}},
            (),
            r"'layer1\.\*', which matches no parameter; try layer1 \(a prefix",
        ),
        ({"lr_scale": {"layer": 0.1}}, (), r"received 'layer', which matches no parameter"),
        ({"lr_scale": {"Dropout(p=0.3)": 0.1}}, (), r"which matches no parameter"),
        ({"lr_scale": {"stem": 0.1}}, ("conv1", "bn1"), r"'stem', which matches only parameters that never train"),
        ({"lr_scale": {"stem": 0.1, "conv1": 2, "bn1": 2}}, (), r"'stem', which has no effect"),
        ({"lr_scale": {"head": -1}}, (), r"optimizer\.lr_scale\[head\]: expected a number above 0, received -1"),
        ({"lr": 0}, (), r"optimizer\.lr: expected a number above 0"),
        ({"lr": float("nan")}, (), r"optimizer\.lr: expected a number above 0"),
        ({"layer_decay": 1.5}, (), r"optimizer\.layer_decay: expected above 0 and at most 1"),
        ({"weight_decay": -0.1}, (), r"optimizer\.weight_decay: expected 0 or more"),
        ({}, ("conv1", "bn1", "layer1", "layer2", "layer3", "fc"), r"something left to train"),
    ],
)
def test_a_rate_that_cannot_be_or_has_no_effect_is_an_error(tiny, changes, never, message):
    network = tiny.network()
    names = frozenset(name for name, _ in network.named_parameters() if name.split(".")[0] in never)
    with pytest.raises(InputError, match=message):
        group_parameters(network, tiny.stages, tiny.optimizer(**changes), [names])
