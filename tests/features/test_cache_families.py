"""The same losses with the cache and without, for each family of backbones, cut where `freeze` says."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from graft.config.choices import CacheKind, FreezeBatchNorm, HeadKind, Library
from graft.config.schema import AugmentConfig, BackboneConfig, CacheConfig, HeadConfig
from graft.features.cache import FeatureCache, check_cut
from graft.features.cache_folder import CacheFolder
from graft.features.engine import Engine, engine, frozen_prefix
from graft.features.ingredients import Ingredients
from graft.finetune.freeze import apply_freeze, parse_freeze
from graft.models.cut import split
from graft.models.network import Network, build_network

COUNT, BATCH, STEPS = 8, 4, 4
slow = pytest.mark.slow


class Pictures:
    """Generated images, as a DataModule's are."""

    def __init__(self, side: int) -> None:
        self.images = torch.randn(COUNT, 3, side, side, generator=torch.Generator().manual_seed(5))
        self.identities = [str(number) for number in range(COUNT)]
        self.columns = {"target": torch.arange(COUNT) % 3}
        self.random = False

    def __getitem__(self, key: tuple[int, ...]) -> dict[str, Any]:
        return {"image": self.images[key[1]]}


def keys_of(step: int) -> list[tuple[int, int]]:
    return [(step // 2, (step * BATCH + place) % COUNT) for place in range(BATCH)]


def losses(network: nn.Module, inputs: list[torch.Tensor], targets: list[torch.Tensor]) -> list[float]:
    """A few steps of what trains, each under its own seed (dropout), and the loss before each."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=0.9)
    found: list[float] = []
    for step, (batch, target) in enumerate(zip(inputs, targets, strict=True)):
        torch.manual_seed(step)
        loss = cross_entropy(network(batch), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def build(library: str, name: str, side: int) -> Network:
    backbone = BackboneConfig(library=Library(library), name=name)
    network = build_network(backbone, HeadConfig(kind=HeadKind.linear), num_classes=3, image_size=side, seed=1)
    torch.manual_seed(2)
    head = network.module.get_submodule(network.stages.head)
    for parameter in head.parameters():  # some libraries begin their heads at zero, where every loss is the same
        nn.init.normal_(parameter, std=0.05)
    return network


def about(prefix: nn.Module, network: Network, cut: str, running: Engine) -> Ingredients:
    cache, augment = CacheConfig(kind=CacheKind.features), AugmentConfig(name="none")
    return Ingredients.of(
        prefix, network, cut=cut, cache=cache, augment=augment, seed=0, engine=running.description
    )  # fmt: skip


def test_another_class_count_shares_the_entry_and_another_epsilon_does_not() -> None:
    network = build("torchvision", "resnet18", 64)
    prefix, _ = split(network.module, network.stages, "layer1")
    running = engine(prefix)
    key = about(prefix, network, "layer1", running).key("")
    other = replace(network, build={**network.build, "num_classes": 7})
    assert about(prefix, other, "layer1", running).key("") == key
    network.module.bn1.eps = 1e-3
    changed, _ = split(network.module, network.stages, "layer1")
    assert about(changed, network, "layer1", engine(changed)).key("") != key


@pytest.mark.parametrize(
    ("library", "name", "freeze", "side"),
    [
        ("torchvision", "resnet18", "layer1-3", 64),
        ("torchvision", "resnet18", "backbone", 64),
        ("torchvision", "mobilenet_v3_small", "backbone", 64),
        ("torchvision", "squeezenet1_1", "backbone", 64),
        ("timm", "tf_efficientnet_lite0", "backbone", 64),
        ("timm", "tf_efficientnet_lite0", "stage1-6", 64),
        pytest.param("torchvision", "resnet50", "layer1-3", 64, marks=slow),
        pytest.param("torchvision", "mobilenet_v2", "backbone", 64, marks=slow),
        pytest.param("torchvision", "densenet121", "denseblock1-3", 64, marks=slow),
        pytest.param("torchvision", "vgg16_bn", "backbone", 64, marks=slow),
        pytest.param("torchvision", "alexnet", "backbone", 64, marks=slow),
        pytest.param("torchvision", "regnet_y_400mf", "block1-3", 64, marks=slow),
        pytest.param("torchvision", "efficientnet_b0", "backbone", 64, marks=slow),
        pytest.param("torchvision", "convnext_tiny", "stage1-5", 64, marks=slow),
        pytest.param("torchvision", "googlenet", "backbone", 64, marks=slow),
        pytest.param("torchvision", "inception_v3", "backbone", 128, marks=slow),
        pytest.param("torchvision", "vit_b_16", "stage1-10", 64, marks=slow),
        pytest.param("torchvision", "swin_t", "stage1-5", 64, marks=slow),
        pytest.param("torchvision", "maxvit_t", "backbone", 224, marks=slow),
    ],
)
def test_losses_agree(tmp_path: Path, library: str, name: str, freeze: str, side: int) -> None:
    plain = build(library, name, side)
    frozen = parse_freeze(freeze, plain.stages, plain.names)
    module = plain.module.train().to(memory_format=torch.channels_last)
    apply_freeze(module, frozen, FreezeBatchNorm.frozen, heads=plain.stages.heads)
    cached = copy.deepcopy(plain)
    pictures = Pictures(side)
    cut = check_cut(frozen_prefix(cached.stages, cached.names, frozen.names))
    prefix, rest = split(cached.module, cached.stages, cut)
    running = engine(prefix, precision=torch.float32)
    ingredients = about(prefix, cached, cut, running)
    store = FeatureCache(CacheFolder(tmp_path, max_gb=1, say=print), batch_size=3)
    features = store.build(running, {"train": pictures}, ingredients)["train"]
    batches = [features.__getitems__(keys_of(step)) for step in range(STEPS)]
    targets = [batch["target"] for batch in batches]
    images = [torch.stack([pictures[key]["image"] for key in keys_of(step)]) for step in range(STEPS)]
    images = [batch.contiguous(memory_format=torch.channels_last) for batch in images]  # dropout goes by memory order
    # Without the cache the same engine runs on the images.
    uncached = copy.deepcopy(plain)
    _, rest_uncached = split(uncached.module, uncached.stages, cut)
    expected = losses(rest_uncached.train(), [running(image) for image in images], targets)
    received = losses(rest.train(), [batch["features"] for batch in batches], targets)
    assert len(set(expected)) == STEPS
    assert received == pytest.approx(expected, abs=1e-5)
    # Beside the network as it is, folding rounds otherwise, and training enlarges that from the second step on.
    assert received[0] == pytest.approx(losses(plain.module, images[:1], targets[:1])[0], abs=1e-4)
    trained = {key: value for key, value in uncached.module.state_dict().items() if key not in frozen.names}
    for key, value in trained.items():
        torch.testing.assert_close(cached.module.state_dict()[key], value, rtol=1e-3, atol=1e-4)
