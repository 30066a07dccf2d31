"""head=stages on every backbone below conf/: the library's model with its blocks pooled, and nothing else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from omegaconf import OmegaConf
from torch import nn

from graft.config.choices import HeadKind, Library, Taps
from graft.config.compose import section_of
from graft.config.schema import BackboneConfig, HeadConfig
from graft.models.backbones import construct
from graft.models.cut import split
from graft.models.network import Network, build_network, rebuild
from graft.models.stages import covers, tensor_names

FILES = {file.stem: file for file in sorted((Path(__file__).parents[2] / "conf/backbone").glob("*.yaml"))}
READY = [name for name in FILES if name not in ("torchvision", "timm", "custom")]
QUICK = ("resnet18", "efficientnet_lite0", "mobilenet_v3_small", "squeezenet1_1")
COMPARED = (
    *QUICK, "convnext_tiny", "vit_b_16", "swin_t", "densenet121", "googlenet", "vgg16", "regnet_y_400mf", "maxvit_t",
)  # fmt: skip
SIDES = {"alexnet": 64, "inception_v3": 75, "maxvit_t": 224}
ALL = HeadConfig(kind=HeadKind.stages, pool=["mean", "std", "max"])
CLASSES = 5
# Taps, and how many values they make of an image with mean and std.
TAPPED = {
    "resnet18": (["bn1", "layer1.0", "layer1.1", "layer4.1"], 9, 4_480),
    "efficientnet_lite0": (["bn1", "blocks.0.0", "blocks.1.0", "blocks.6.0"], 17, None),
    "vit_b_16": (["conv_proj", "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_11"], 13, 20_736),
    "densenet121": (["features.pool0", "features.denseblock1", "features.denseblock4"], 5, None),
    "convnext_tiny": (["features.0", "features.1.0", "features.7.2"], 19, None),
    "swin_t": (["features.0", "features.1.0", "features.7.1"], 13, None),
    "googlenet": (["conv3", "inception3a", "inception5b"], 10, None),
    "vgg16": (["features.4", "features.30"], 5, None),
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def backbone(name: str) -> BackboneConfig:
    return section_of(BackboneConfig, OmegaConf.load(FILES[name]))


def build(name: str, head: HeadConfig, device: str = "cpu", side: int | None = None) -> Network:
    return build_network(
        backbone(name), head, num_classes=CLASSES, image_size=side or SIDES.get(name, 32), device=device
    )


def plain(network: Network) -> nn.Module:
    """The library's own model, built without graft's help."""
    config = network.build
    if config["library"] == "timm":
        return timm.create_model(config["name"], num_classes=CLASSES, **config["kwargs"])
    return torchvision.models.get_model(config["name"], weights=None, num_classes=CLASSES, **config["kwargs"])


@pytest.mark.parametrize("name", READY)
def test_built_without_storage_the_trunk_keeps_every_name_and_shape(name: str) -> None:
    network = build(name, HeadConfig(kind=HeadKind.stages), "meta")
    made = network.build
    library = construct(Library(made["library"]), made["name"], made["kwargs"], num_classes=CLASSES, device="meta")
    at = network.stages.head
    kept, own = (
        {n: v.shape for n, v in m.state_dict().items() if not covers(at, n)} for m in (network.module, library)
    )
    assert kept == own
    assert list(kept) == list(own), "in the library's order"
    assert set(tensor_names(network.module)) - set(tensor_names(library)) <= {f"{at}.bias"}
    layer = network.module.get_submodule(at)
    assert type(layer) is nn.Linear
    assert (layer.in_features, layer.out_features) == (network.head["width"], CLASSES)
    assert len(network.head["taps"]) >= len(network.stages.names) - 1


@pytest.mark.parametrize("name", TAPPED)
def test_every_block_is_tapped_and_where_a_stage_has_none_its_end(name: str) -> None:
    some, count, width = TAPPED[name]
    network = build(name, HeadConfig(kind=HeadKind.stages), "meta", side=64)
    paths = [row["module"] for row in network.head["taps"]]
    assert len(paths) == count
    assert [path for path in paths if path in some] == some, "in the order in which they run"
    axes = {tuple(row["axes"]) for row in network.head["taps"]}
    assert axes == {"swin_t": {(1, 2)}, "vit_b_16": {(2, 3), (1,)}}.get(name, {(2, 3)})
    if width is not None:
        assert network.head["width"] == width


def test_stage_taps_the_last_block_of_each_stage() -> None:
    network = build("resnet18", HeadConfig(kind=HeadKind.stages, pool=["max"], taps=Taps.stage), "meta", side=64)
    assert [row["module"] for row in network.head["taps"]] == ["bn1", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    assert network.head["width"] == 64 + 64 + 128 + 256 + 512 + 512


def test_channels_last_is_told_by_the_network_s_other_maps() -> None:
    """Of [B, 96, 96, 96] alone nobody could say which axis holds the channels."""
    network = build("swin_t", HeadConfig(kind=HeadKind.stages), "meta", side=384)
    assert {tuple(row["axes"]) for row in network.head["taps"]} == {(1, 2)}
    network = build("resnet18", HeadConfig(kind=HeadKind.stages), "meta", side=256)  # layer1: 64 channels of 64 × 64
    assert {tuple(row["axes"]) for row in network.head["taps"]} == {(2, 3)}


def reference(library: nn.Module, head: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
    """What enters the linear layer, by forward hooks on the plain library's model."""
    taken: dict[str, torch.Tensor] = {}
    entering: list[torch.Tensor] = []
    hooks = [
        library.get_submodule(row["module"]).register_forward_hook(
            lambda _m, _i, output, path=row["module"]: taken.__setitem__(path, output.clone())
        )
        for row in head["taps"]
    ]
    hooks.append(library.get_submodule(head["at"]).register_forward_pre_hook(lambda _m, i: entering.append(i[0])))
    with torch.no_grad():
        library(x)
    for hook in hooks:
        hook.remove()
    parts = [pooled(taken[row["module"]], row) for row in head["taps"]]
    parts.append(pooled(entering[0], head["last"]) if head["last"]["axes"] else entering[0])
    return torch.cat(parts, 1)


def pooled(value: torch.Tensor, row: dict[str, Any]) -> torch.Tensor:
    axes = tuple(row["axes"])
    made = {"mean": value.mean(axes), "std": value.std(axes, correction=0), "max": value.amax(axes)}
    return torch.cat([made[statistic] for statistic in row["statistics"]], 1)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in COMPARED]
)
def test_its_logits_are_those_of_the_plain_model_s_blocks(name: str) -> None:
    side = SIDES.get(name, 64)
    network = build(name, ALL, side=side)
    library = plain(network).eval()
    at, head = network.head["at"], network.head
    state = network.module.state_dict()
    trunk = {key: value for key, value in state.items() if not covers(at, key)}
    own = {key: value for key, value in library.state_dict().items() if covers(at, key)}
    library.load_state_dict({**trunk, **own}, strict=True)
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    module = network.module.eval()
    with torch.no_grad():
        logits = module(x)
        expected = module.get_submodule(at)(reference(library, head, x))
        prefix, rest = split(module, network.stages, network.stages.names[-1])
        features = prefix(x)
        assert features.shape == (2, head["width"]), "one vector an image crosses the cut"
        torch.testing.assert_close(rest(features), logits, atol=1e-5, rtol=0)
    assert float((logits[0] - logits[1]).abs().max()) > 0, "a dead network would pass"
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    again = rebuild(network.build, head)
    again.load_state_dict(state, strict=True)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), logits)


def test_auxiliary_classifiers_that_eval_mode_does_not_call_stay() -> None:
    config = BackboneConfig(
        library=Library.torchvision, name="googlenet", kwargs={"aux_logits": True}, head="fc",
        stages={"stem": ["conv1", "conv2", "conv3"], "body": [f"inception{n}" for n in ("3a", "3b", "4a", "4b", "4c",
        "4d", "4e", "5a", "5b")], "aux": ["aux1", "aux2"]},
    )  # fmt: skip
    network = build_network(config, HeadConfig(kind=HeadKind.stages), num_classes=CLASSES, image_size=64, device="meta")
    with torch.device("meta"):
        library = torchvision.models.googlenet(num_classes=CLASSES, weights=None, aux_logits=True, init_weights=False)
    assert list(network.module.state_dict()) == list(library.state_dict())


def test_a_copy_saves_no_buffers_that_the_network_does_not() -> None:
    """timm's Swin holds index tables that its state dict leaves out."""
    config = BackboneConfig(library=Library.timm, name="swin_tiny_patch4_window7_224", kwargs={"img_size": 64})
    network = build_network(config, HeadConfig(kind=HeadKind.stages), num_classes=CLASSES, image_size=64, device="meta")
    assert set(network.names) > set(network.module.state_dict())
    copied = copy.deepcopy(network.module)
    assert list(copied.state_dict()) == list(network.module.state_dict())
    assert set(tensor_names(copied)) == set(network.names)
