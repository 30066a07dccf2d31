"""Every backbone below conf/: built, divided in stages, given a new head, frozen, cut, loaded by its plain library."""

from __future__ import annotations

import copy
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from omegaconf import OmegaConf
from torch import nn

from graft.config.compose import section_of
from graft.config.schema import BackboneConfig, FreezeBatchNorm, HeadConfig, HeadKind
from graft.finetune.freeze import apply_freeze, parse_freeze
from graft.finetune.route import halves_at
from graft.models.cut import split
from graft.models.network import Network, build_network, rebuild
from graft.models.stages import HEAD, covers, tensor_names

FILES = {file.stem: file for file in sorted((Path(__file__).parents[2] / "conf/backbone").glob("*.yaml"))}
BY_NAME_ONLY = ("torchvision", "timm", "custom")
READY = [name for name in FILES if name not in BY_NAME_ONLY]
# The full contract of these runs every time, that of the others with the slow tests; all are built without storage.
QUICK = {"efficientnet_lite0", "mobilenet_v3_small", "resnet18", "resnet50", "squeezenet1_1"}
# Smallest sides that the others do not take.
SIDES = {"alexnet": 64, "inception_v3": 75, "maxvit_t": 224}
FULL = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in READY]
CLASSES = 5
LINEAR = HeadConfig(kind=HeadKind.linear)
MLP = HeadConfig(kind=HeadKind.mlp, hidden=[8], dropout=0.1, norm="layer")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def backbone(name: str) -> BackboneConfig:
    return section_of(BackboneConfig, OmegaConf.load(FILES[name]))


def build(name: str, head: HeadConfig = LINEAR, device: str = "cpu", **kwargs: Any) -> Network:
    side = SIDES.get(name, 32)
    network = build_network(backbone(name), head, num_classes=CLASSES, image_size=side, device=device, **kwargs)
    if device == "cpu":
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in network.module.parameters():
                if not parameter.any():  # a zeroed last layer would make every output equal
                    parameter.normal_(std=0.02)
    return network


def images(network: Network, count: int = 2) -> torch.Tensor:
    side = network.preprocess.image_size
    return torch.randn(count, network.preprocess.channels, side, side, generator=torch.Generator().manual_seed(1))


def plain(network: Network) -> nn.Module:
    """The library's own model, built without graft's help."""
    config = network.build
    kwargs = dict(config["kwargs"])
    if config["library"] == "timm":
        return timm.create_model(config["name"], num_classes=CLASSES, **kwargs)
    return torchvision.models.get_model(config["name"], weights=None, num_classes=CLASSES, **kwargs)


def test_the_issue_s_backbones_are_all_here() -> None:
    assert set(READY) == {
        "resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "wide_resnet50_2", "densenet121", "vgg16",
        "vgg16_bn", "alexnet", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
        "efficientnet_b0", "efficientnet_v2_s", "efficientnet_lite0", "convnext_tiny", "regnet_y_400mf", "googlenet",
        "inception_v3", "vit_b_16", "swin_t", "maxvit_t", "resnet152", "vgg19", "mobilenet_v1", "tf_efficientnet_b0",
        "efficientnet_lite1", "efficientnet_lite2",
    }  # fmt: skip


@pytest.mark.parametrize("name", READY)
def test_stages_partition_the_trunk_exactly(name: str) -> None:
    network = build(name, device="meta")
    names = tensor_names(network.module)
    assert all(tensor.is_meta for tensor in network.module.state_dict().values())
    owners = Counter(
        tensor
        for tensor in names
        for prefixes in [*(stage.prefixes for stage in network.stages.trunk), network.stages.heads]
        for prefix in prefixes
        if covers(prefix, tensor)
    )
    assert owners == Counter(names), "every parameter and buffer in one place"
    assert set(network.module.state_dict()) <= set(names)
    for stage in (*network.stages.names, HEAD):
        assert network.stages.tensors(stage, names)
    assert network.stages.heads == (backbone(name).head,)


@pytest.mark.parametrize("name", READY)
def test_an_mlp_head_stands_on_pooled_features(name: str) -> None:
    network = build(name, MLP, device="meta", channels=1)
    head = network.module.get_submodule(network.stages.head)
    sizes = [(layer.in_features, layer.out_features) for layer in head.modules() if isinstance(layer, nn.Linear)]
    assert sizes == [(network.head["width"], 8), (8, CLASSES)]
    assert network.head["width"] <= 2048
    first = next(layer for layer in network.module.modules() if isinstance(layer, nn.Conv2d))
    assert first.in_channels == 1


@pytest.mark.parametrize("name", FULL)
def test_the_exported_weights_load_strictly_into_the_plain_library_model(name: str) -> None:
    network = build(name)
    module, x = network.module.eval(), images(network)
    weights = {tensor: value.clone() for tensor, value in module.state_dict().items()}
    again = plain(network)
    again.load_state_dict(weights, strict=True)
    with torch.no_grad():
        expected = module(x)
        torch.testing.assert_close(again.eval()(x), expected, atol=1e-5, rtol=0)
    assert expected.shape == (2, CLASSES)
    assert float((expected[0] - expected[1]).abs().max()) > 0, "a dead network would pass"


@pytest.mark.parametrize("name", FULL)
def test_cut_after_each_stage_both_halves_are_the_whole(name: str) -> None:
    network = build(name)
    for stage in network.stages.names:
        check_halves(network, stage)


@pytest.mark.parametrize("name", FULL)
def test_cut_before_an_mlp_head_the_prefix_gives_pooled_features(name: str) -> None:
    network = build(name, MLP)
    features = check_halves(network, network.stages.names[-1])
    assert features.numel() == 2 * network.head["width"]


def check_halves(network: Network, stage: str) -> torch.Tensor:
    module, x = network.module.eval(), images(network)
    prefix, rest = split(module, network.stages, stage)
    own = {id(parameter) for parameter in module.parameters()}
    assert {id(parameter) for half in (prefix, rest) for parameter in half.parameters()} == own
    assert not prefix.training
    assert not rest.training
    with torch.no_grad():
        features = prefix(x)
        kept = features.clone()  # one tensor crosses
        torch.testing.assert_close(rest(features), module(x), atol=1e-5, rtol=0)
    assert torch.equal(features, kept), "the rest writes into its input"
    return features


@pytest.mark.parametrize("name", FULL)
def test_cut_the_rest_trains_as_the_whole_does(name: str) -> None:
    network = build(name, MLP)
    module, stages = network.module, network.stages
    middle = stages.names[len(stages.names) // 2]
    prefix, rest = split(module, stages, middle)
    frozen = parse_freeze("+".join(stages.names[: stages.index(middle) + 1]), stages, network.names)
    apply_freeze(module, frozen, FreezeBatchNorm.frozen, heads=stages.heads)
    module.train()
    rest.train()
    x, before = images(network, 4), copy.deepcopy(module.state_dict())
    assert all(not part.training for part in prefix.modules() if isinstance(part, nn.BatchNorm2d))
    outputs, gradients, buffers = [], [], []
    for forward in (module, lambda x: rest(prefix(x))):
        module.load_state_dict(before)
        module.zero_grad()
        torch.manual_seed(3)
        outputs.append(forward(x))
        outputs[-1].square().sum().backward()
        gradients.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
        buffers.append([buffer.clone() for buffer in module.buffers()])
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-5, rtol=1e-5)
    assert gradients[0]
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(buffers[1], buffers[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FULL)
def test_freeze_each_range_and_nothing_else_moves(name: str) -> None:
    network = build(name)
    module, stages = network.module, network.stages
    for last in range(len(stages.names)):
        inside = set(stages.names[: last + 1])
        frozen = parse_freeze("+".join(stages.names[: last + 1]), stages, network.names)
        apply_freeze(module, frozen, FreezeBatchNorm.frozen, heads=stages.heads)
        module.train()
        for tensor, parameter in module.named_parameters():
            assert parameter.requires_grad == (stages.stage_of(tensor) not in inside), tensor
        assert frozen.names == {tensor for tensor in network.names if stages.stage_of(tensor) in inside}
    before = copy.deepcopy(module.state_dict())
    module(images(network, 4)).square().sum().backward()
    torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1).step()
    moved = {tensor for tensor, value in module.state_dict().items() if not torch.equal(value, before[tensor])}
    assert moved
    assert {stages.stage_of(tensor) for tensor in moved} == {HEAD}


@pytest.mark.parametrize("head", [LINEAR, MLP], ids=["linear", "mlp"])
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "alexnet"])
def test_a_network_is_built_again_from_its_record(name: str, head: HeadConfig) -> None:
    network = build(name, head, channels=4)
    again = rebuild(network.build, network.head)
    again.load_state_dict(network.module.state_dict(), strict=True)
    x = images(network)
    assert torch.equal(again.eval()(x), network.module.eval()(x))


@pytest.mark.parametrize("name", FULL)
def test_the_frozen_prefix_as_an_engine_gives_the_same_logits(name: str) -> None:
    """Within 1e-4 of the largest in float32, wherever it is cut, with statistics that say something."""
    network = build(name)
    for norm in (part for part in network.module.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.normal_(norm.running_mean, 0, 0.1)
    given = images(network)
    stages = network.stages.names
    with torch.no_grad():
        expected = network.module.eval()(given)
        for cut in {stages[len(stages) // 2], stages[-1]}:
            running, rest = halves_at(cut, network.module, network.stages, given, torch.float32)
            received = rest.eval()(running(given))
            assert (expected - received).abs().max() <= 1e-4 * expected.abs().max()
    assert all(parameter.requires_grad for parameter in network.module.parameters())
