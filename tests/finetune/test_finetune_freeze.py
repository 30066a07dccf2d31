import copy
import pickle

import pytest
import torch
import torch.fx
import torchvision
from torch import nn

from graft.config.faults import InputError
from graft.config.schema import FreezeBatchNorm
from graft.finetune.freeze import apply_freeze, check_tied, modules_in_eval, parse_freeze, unmoving
from graft.models.fingerprint import fingerprint
from graft.models.stages import Stage, Stages, tensor_names

RESNET = Stages(
    trunk=(
        Stage("stem", ("conv1", "bn1")),
        Stage("layer1", ("layer1",)),
        Stage("layer2", ("layer2",)),
        Stage("layer3", ("layer3",)),
        Stage("layer10", ("layer10",)),
    ),
    heads=("fc",),
)
NAMES = (
    "conv1.weight",
    "bn1.running_mean",
    "layer1.0.conv1.weight",
    "layer1.1.conv1.weight",
    "layer2.0.conv1.weight",
    "layer3.0.conv1.weight",
    "layer10.0.conv1.weight",
    "fc.weight",
    "fc.bias",
)


@pytest.mark.parametrize(
    ("expression", "stages", "implied"),
    [
        ("none", (), ()),
        ("backbone", ("stem", "layer1", "layer2", "layer3", "layer10"), ()),
        ("stem", ("stem",), ()),
        ("layer1", ("layer1",), ()),
        ("layer3", ("layer3",), ()),
        ("layer1-3", ("stem", "layer1", "layer2", "layer3"), ("stem",)),
        ("layer1-layer3", ("stem", "layer1", "layer2", "layer3"), ("stem",)),
        ("layer1-1", ("stem", "layer1"), ("stem",)),
        ("layer2-3", ("layer2", "layer3"), ()),
        ("stem+layer2", ("stem", "layer2"), ()),
        ("stem+layer1-2", ("stem", "layer1", "layer2"), ()),
        (" layer2 + layer1 ", ("layer1", "layer2"), ()),
        ("stem-layer2", ("stem", "layer1", "layer2"), ()),
        ("head", ("head",), ()),
    ],
)
def test_a_stage_expression_names_stages(expression, stages, implied):
    frozen = parse_freeze(expression, RESNET, NAMES)
    assert frozen.stages == stages
    assert frozen.implied == implied
    assert frozen.names == {name for name in NAMES if RESNET.stage_of(name) in stages}


@pytest.mark.parametrize(
    ("prefixes", "names"),
    [
        ([], ()),
        (["layer1"], ("layer1.0.conv1.weight", "layer1.1.conv1.weight")),
        (["layer1.0"], ("layer1.0.conv1.weight",)),
        (["conv1", "fc.bias"], ("conv1.weight", "fc.bias")),
    ],
)
def test_a_list_is_literal_prefixes_and_nothing_more(prefixes, names):
    assert parse_freeze(prefixes, RESNET, NAMES).names == set(names)


@pytest.mark.parametrize(
    ("expression", "printed"),
    [
        ("none", "nothing"),
        ("layer1-2", "stem, layer1, layer2 (stem implied)"),
        (["layer1.0", "layer2"], "layer2, part of layer1"),
    ],
)
def test_a_freeze_state_says_what_it_is(expression, printed):
    assert str(parse_freeze(expression, RESNET, NAMES)) == printed


def test_a_stage_is_whole_only_when_all_its_tensors_are_frozen():
    assert parse_freeze(["layer1.0"], RESNET, NAMES).stages == ()
    assert parse_freeze(["conv1", "bn1"], RESNET, NAMES).stages == ("stem",)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("layer4", r"stages stem, layer1, layer2, layer3, layer10; received 'layer4'.*try layer3"),
        ("layer1-4", r"received 'layer4'"),
        ("layer3-1", r"expected a range towards the head.*try layer1-layer3"),
        ("none+layer1", r"received 'none'"),
        ("", r"received ''"),
        ("layer1,layer2", r"received 'layer1,layer2'.*list"),
        ("conv1", r"received 'conv1'.*a list: freeze=\["),
        (["layer9"], r"'layer9', which matches no parameter \(stages: stem, .*try layer"),
        (
            ["layer1.*"],
            r"'layer1\.\*', which matches no parameter .*; try layer1 \(a prefix",
        ),
        (["layer"], r"'layer', which matches no parameter"),
        (["stem"], r"freeze=stem without brackets"),
        (["Conv2d(3, 4, kernel_size=(3, 3))"], r"which matches no parameter"),
        (None, r"received None; try none"),
        (3, r"received 3"),
        ([1], r"received \[1\]"),
    ],
)
def test_what_names_nothing_is_an_error_with_the_stages(expression, message):
    with pytest.raises(InputError, match=message):
        parse_freeze(expression, RESNET, NAMES)


def freeze(network, expression, stages, policy=FreezeBatchNorm.frozen):
    frozen = parse_freeze(expression, stages, tensor_names(network))
    apply_freeze(network, frozen, policy, heads=stages.heads)
    return frozen


def test_a_stage_is_frozen_by_its_names_never_by_how_its_layers_print():
    """Two layers that print alike are two layers: freezing by str(layer) would take both."""
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    stages = Stages(trunk=(Stage("first", ("0",)),), heads=("1",))
    assert str(network[0]) == str(network[1])
    freeze(network, "first", stages)
    assert [parameter.requires_grad for parameter in network.parameters()] == [False, False, True, True]


def frozen_tiny(tiny, expression="layer1-2", policy=FreezeBatchNorm.frozen):
    network = tiny.network()
    return network, freeze(network, expression, tiny.stages, policy)


def run_a_step(network):
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.5)
    network(torch.randn(4, 3, 32, 32) + 3).square().sum().backward()
    optimizer.step()


def test_frozen_statistics_and_weights_do_not_move_whoever_calls_train(tiny):
    network, frozen = frozen_tiny(tiny)
    before = fingerprint(network, frozen.names)
    for call in (network.train, network.layer1.train, network.layer1.bn.train, network.apply):
        call(*([lambda part: part.train()] if call == network.apply else []))
        run_a_step(network)
    assert network.training
    assert not network.layer1.bn.training
    assert network.layer3.bn.training
    assert fingerprint(network, frozen.names) == before
    assert network.layer3.bn.num_batches_tracked == 4


def test_decay_does_not_move_frozen_weights(tiny):
    """AdamW decays every parameter that has a gradient, a zero gradient too: so frozen ones have none."""
    network = tiny.network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.5)
    network(torch.randn(4, 3, 8, 8)).sum().backward()
    frozen = freeze(network, "backbone", tiny.stages)
    before = fingerprint(network, frozen.names)
    optimizer.step()
    assert all(parameter.grad is None for name, parameter in network.named_parameters() if name in frozen.names)
    assert fingerprint(network, frozen.names) == before


def test_noise_of_frozen_stages_is_off_also_between_them(tiny):
    network, _ = frozen_tiny(tiny, "backbone")
    network.train()
    quiet = {name for name, part in network.named_modules() if isinstance(part, nn.Dropout) and not part.training}
    assert quiet == {"pos_drop", "layer1.drop", "layer2.drop", "layer3.drop"}
    assert network.head_drop.training


def test_thawing_brings_back_training_mode_and_gradients(tiny):
    network, _ = frozen_tiny(tiny, "backbone")
    network.train()
    freeze(network, "stem", tiny.stages)
    assert network.layer1.bn.training
    assert network.layer1.drop.training
    assert network.layer1.conv.weight.requires_grad
    assert not network.bn1.training
    assert "train" not in vars(network.layer1)


@pytest.mark.parametrize(
    ("policy", "training"),
    [
        (FreezeBatchNorm.frozen, {"layer3.bn"}),
        (FreezeBatchNorm.all, set()),
        (FreezeBatchNorm.none, {"bn1", "layer1.bn", "layer2.bn", "layer3.bn"}),
    ],
)
def test_batch_norm_policy(tiny, policy, training):
    network, frozen = frozen_tiny(tiny, policy=policy)
    network.train()
    found = {name for name, part in network.named_modules() if isinstance(part, nn.BatchNorm2d) and part.training}
    assert found == training
    assert not network.layer1.drop.training
    moves = policy is FreezeBatchNorm.none
    held = unmoving(network, frozen, policy, heads=tiny.stages.heads)
    assert ("layer1.bn.running_mean" in held) != moves
    assert "layer1.bn.weight" in held


def test_policy_all_keeps_the_statistics_of_stages_that_train_too(tiny):
    network, frozen = frozen_tiny(tiny, policy=FreezeBatchNorm.all)
    held = unmoving(network, frozen, FreezeBatchNorm.all, heads=tiny.stages.heads)
    assert {"layer3.bn.running_mean", "layer3.bn.num_batches_tracked"} == held - frozen.names - {
        "layer3.bn.running_var"
    }
    before = fingerprint(network, held)
    network.train()
    run_a_step(network)
    assert fingerprint(network, held) == before
    assert network.layer3.bn.weight.grad is not None


def test_policy_all_leaves_the_heads_own_norm_alone():
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)))
    stages = Stages(trunk=(Stage("stem", ("0",)),), heads=("1",))
    nothing = parse_freeze("none", stages, tensor_names(network))
    assert modules_in_eval(network, nothing, FreezeBatchNorm.all, heads=stages.heads) == {"0"}
    held = unmoving(network, nothing, FreezeBatchNorm.all, heads=stages.heads)
    assert held == {"0.running_mean", "0.running_var", "0.num_batches_tracked"}


def test_copies_state_dicts_and_graphs_keep_the_freeze(tiny):
    plain = tiny.network()
    network, _ = frozen_tiny(tiny)
    assert list(network.state_dict()) == list(plain.state_dict())
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), torch.fx.symbolic_trace(network)):
        twin.train()
        assert not twin.get_submodule("layer1.bn").training
        assert twin.get_submodule("layer3.bn").training
    twin = copy.deepcopy(network)
    freeze(twin, "none", tiny.stages)
    twin.train()
    assert twin.layer1.bn.training
    assert not network.train().layer1.bn.training


def test_layer1_3_of_a_resnet_trains_layer4_and_the_head_alone():
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=2)
    trunk = [Stage("stem", ("conv1", "bn1"))] + [Stage(f"layer{n}", (f"layer{n}",)) for n in range(1, 5)]
    stages = Stages(trunk=tuple(trunk), heads=("fc",))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    freeze(network, "layer1-3", stages)
    network.train()
    run_a_step(network)
    moved = {name.split(".")[0] for name, value in network.state_dict().items() if not value.equal(before[name])}
    assert moved == {"layer4", "fc"}


def test_tied_tensors_are_frozen_together_or_not_at_all():
    network = nn.ModuleDict({"first": nn.Linear(2, 2), "last": nn.Linear(2, 2)})
    network["last"].weight = network["first"].weight
    stages = Stages(trunk=(Stage("first", ("first",)),), heads=("last",))
    frozen = parse_freeze("first", stages, tensor_names(network))
    with pytest.raises(InputError, match=r"freezes first\.weight and not last\.weight, the same tensor"):
        check_tied(network, frozen)


def test_the_fingerprint_is_of_values_not_of_layout(tiny):
    network = tiny.network()
    names = tensor_names(network)
    before = fingerprint(network, names)
    assert fingerprint(network.to(memory_format=torch.channels_last), names) == before
    with torch.no_grad():
        network.layer1.bn.running_mean[0] = torch.nextafter(torch.tensor(0.0), torch.tensor(1.0))
    assert fingerprint(network, names) != before
    assert fingerprint(network, [name for name in names if name != "layer1.bn.running_mean"]) != before
