"""Heads: in place of the library's last layer, with what a user asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from graft.config.faults import InputError
from graft.config.schema import BackboneConfig, HeadConfig, HeadKind, Library
from graft.models.heads import ACTIVATIONS, mlp_layers
from graft.models.network import Network, build_network


def build(new: HeadConfig, name: str = "squeezenet1_1", device: str = "cpu", **backbone: Any) -> Network:
    config = BackboneConfig(library=Library.torchvision, name=name, **backbone)
    return build_network(config, new, num_classes=5, image_size=64, device=device)


@pytest.mark.parametrize(("name", "path"), [("squeezenet1_1", "classifier.1"), ("shufflenet_v2_x0_5", "fc")])
def test_a_linear_head_is_the_library_s_own_layer_dropout_or_not(name: str, path: str) -> None:
    bare = build(HeadConfig(kind=HeadKind.linear), name)
    dropped = build(HeadConfig(kind=HeadKind.linear, dropout=0.5), name)
    plain = torchvision.models.get_model(name, num_classes=5)
    assert (bare.stages.heads, dropped.stages.heads) == ((path,), (path,))
    assert type(bare.module.get_submodule(path)) is type(plain.get_submodule(path))
    assert list(plain.state_dict()) == list(bare.module.state_dict()) == list(dropped.module.state_dict())
    dropped.module.load_state_dict(bare.module.state_dict())
    x = torch.rand(4, 3, 64, 64)
    assert torch.equal(dropped.module.eval()(x), bare.module.eval()(x))
    layer, features = dropped.module.get_submodule(path), torch.ones(1, 1024 if path == "fc" else 512, 1, 1)
    features = features.flatten(1) if path == "fc" else features
    assert not torch.equal(layer.train()(features), layer.eval()(features))


def test_global_average_pooling_dense_256_on_vgg() -> None:
    head = HeadConfig(kind=HeadKind.mlp, hidden=[256], dropout=0.3)
    network = build(head, "vgg11", "meta", head="classifier.6", pool="avgpool", classifier="classifier")
    assert [type(layer) for layer in network.module.classifier] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert network.module.classifier.linear1.in_features == 512
    assert network.module.avgpool.output_size == 1
    assert network.stages.heads == ("classifier",)
    assert network.stages.tensors("head", network.names) == tuple(
        f"classifier.{name}" for name in ("linear1.weight", "linear1.bias", "out.weight", "out.bias")
    )
    assert not any("classifier" in prefix for stage in network.stages.trunk for prefix in stage.prefixes)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_hidden_layers_come_in_order(norm: str, activation: str) -> None:
    layers = mlp_layers(6, 2, hidden=[4, 3], dropout=0.1, activation=activation, norm=norm)
    names = [f"{kind}{number}" for number in (1, 2) for kind in ("linear", "norm", "activation", "dropout")]
    assert list(layers) == [name for name in names if norm != "none" or "norm" not in name] + ["out"]
    assert nn.Sequential(layers)(torch.rand(5, 6)).shape == (5, 2)


def test_a_custom_head_is_called_with_width_and_classes() -> None:
    head = HeadConfig(kind=HeadKind.custom, target="torch.nn.Linear", kwargs={"bias": False})
    network = build(head, "shufflenet_v2_x0_5")
    layer = network.module.fc
    assert (layer.in_features, layer.out_features, layer.bias) == (1024, 5, None)


def test_a_custom_head_on_a_convolution_gets_pooled_features() -> None:
    network = build(HeadConfig(kind=HeadKind.custom, target="torch.nn.Linear"))
    assert list(dict(network.module.get_submodule("classifier.1").named_children())) == ["pool", "flatten", "head"]


def test_no_new_head_keeps_the_library_s() -> None:
    network = build(HeadConfig(kind=HeadKind.none), device="meta")
    assert network.head == {"kind": "none", "at": "classifier.1"}


def test_several_last_layers_take_a_linear_head_only() -> None:
    backbone = BackboneConfig(library=Library.timm, name="deit_tiny_distilled_patch16_224")
    network = build_network(backbone, HeadConfig(kind=HeadKind.linear), num_classes=5, device="meta")
    assert network.stages.heads == ("head", "head_dist")
    with pytest.raises(InputError, match="head, head_dist; try head=linear"):
        build_network(backbone, HeadConfig(kind=HeadKind.mlp, hidden=[8]), num_classes=5, device="meta")


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"kind": HeadKind.mlp}, r"head\.hidden: expected widths"),
        ({"kind": HeadKind.mlp, "hidden": [0]}, r"head\.hidden: expected widths"),
        ({"kind": HeadKind.linear, "hidden": [8]}, "try head=mlp"),
        ({"kind": HeadKind.mlp, "hidden": [8], "activation": "rellu"}, "received 'rellu'; try relu"),
        ({"kind": HeadKind.mlp, "hidden": [8], "norm": "bach"}, "received 'bach'; try batch"),
        ({"kind": HeadKind.linear, "dropout": 1.0}, r"head\.dropout"),
        ({"kind": HeadKind.none, "dropout": 0.1}, "try head=linear"),
        ({"kind": HeadKind.custom}, r"head\.target: expected the import path"),
        ({"kind": HeadKind.custom, "target": "torch.nn.Linea"}, "received 'Linea'"),
        ({"kind": HeadKind.custom, "target": "nowhere.at.all"}, "received nowhere.at.all"),
        ({"kind": HeadKind.custom, "target": "torch.nn.Linear", "kwargs": {"with": 1}}, r"head\.kwargs"),
        ({"kind": HeadKind.custom, "target": "builtins.max"}, r"torch\.nn\.Module|in_features, num_classes"),
    ],
)
def test_a_head_that_cannot_be_is_answered(settings: dict[str, Any], answer: str) -> None:
    with pytest.raises(InputError, match=answer):
        build(HeadConfig(**settings), "shufflenet_v2_x0_5", "meta")
