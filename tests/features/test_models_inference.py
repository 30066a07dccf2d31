"""The frozen prefix as an engine: the same function, another form, the original untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from timm.layers.norm_act import BatchNormAct2d
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from graft.features.engine import engine, fast_precision, fold, frozen_prefix, training_dtype
from graft.models.stages import Stage, Stages

MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (torchvision.models.resnet18, 0),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, 0),
    "mobilenet_v3_small": (torchvision.models.mobilenet_v3_small, 0),
    "tf_efficientnet_lite0": (lambda: timm.create_model("tf_efficientnet_lite0"), 0),
    "timm resnet18": (lambda: timm.create_model("resnet18"), 0),
    "densenet121": (torchvision.models.densenet121, 62),  # its norms before the activation cannot be folded
}


def stir(module: nn.Module) -> nn.Module:
    """Statistics and factors that say something, so that a norm folded wrongly shows."""
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(0, 0.5)
            norm.running_var.uniform_(0.3, 3)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, 0, 0.3)
    return module


def relative_difference(module: nn.Module, other: nn.Module, image: torch.Tensor) -> float:
    with torch.no_grad():
        expected, received = copy.deepcopy(module).eval()(image), other(image)
    return ((expected - received).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", MODELS)
def test_folded_is_the_same_function_and_the_original_untouched(name: str) -> None:
    torch.manual_seed(0)
    build, norms_left = MODELS[name]
    network = stir(build()).train()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    folded = fold(network)
    assert relative_difference(network, folded, torch.randn(2, 3, 64, 64)) < 1e-4
    assert sum(isinstance(module, _BatchNorm) for module in folded.modules()) == norms_left
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    shared = {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert not shared & {tensor.data_ptr() for tensor in folded.state_dict().values()}


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)],
        lambda: [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False, eps=1e-3)],
        lambda: [nn.Conv2d(3, 6, 3, groups=3), BatchNormAct2d(6, act_layer=nn.SiLU)],
        lambda: [nn.Conv2d(3, 6, 3), BatchNormAct2d(6, apply_act=False)],
        lambda: [nn.Conv2d(3, 6, 3), FrozenBatchNorm2d(6)],
        lambda: [nn.Flatten(), nn.Linear(3 * 64, 5), nn.BatchNorm1d(5)],
    ],
)
def test_each_pair_is_folded(layers: Callable[[], list[nn.Module]]) -> None:
    torch.manual_seed(0)
    pair = stir(nn.Sequential(*layers()))
    folded = fold(pair)
    assert not [module for module in folded.modules() if isinstance(module, (_BatchNorm, FrozenBatchNorm2d))]
    assert relative_difference(pair, folded, torch.randn(4, 3, 8, 8)) < 1e-5


class Standardised(nn.Conv2d):
    """Computes its weight on the fly, so that nothing can be folded into the stored one."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(image, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class Shared(nn.Module):
    """One convolution under two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.first(self.conv(image)) + self.second(self.conv(image))


class Branching(nn.Module):
    """A convolution whose output is wanted without the norm as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.conv(image)
        return self.norm(features) + features


@pytest.mark.parametrize(
    "build",
    [
        Shared,
        Branching,
        lambda: nn.Sequential(Standardised(3, 4, 3), nn.BatchNorm2d(4)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3)),
    ],
)
def test_what_cannot_be_folded_stays(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = build()
    for norm in network.modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None:
            norm.running_mean.normal_()
    folded = fold(network)
    assert [module for module in folded.modules() if isinstance(module, _BatchNorm)]
    assert relative_difference(network, folded, torch.randn(4, 3, 8, 8)) < 1e-6


def test_a_traced_prefix_is_folded() -> None:
    torch.manual_seed(0)
    traced = fx.symbolic_trace(stir(torchvision.models.resnet18()).eval())
    folded = fold(traced)
    assert not [module for module in folded.modules() if isinstance(module, _BatchNorm)]
    assert [module for module in traced.modules() if isinstance(module, _BatchNorm)]
    assert relative_difference(traced, folded, torch.randn(2, 3, 64, 64)) < 1e-4


def test_an_engine_answers_for_any_batch_and_never_trains() -> None:
    torch.manual_seed(0)
    network = stir(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)))
    running = engine(network, precision=torch.float32).train()
    assert not any(module.training for module in running.modules())
    assert running.description == "folded, float32"
    for size in (1, 8, 9, 20):
        image = torch.randn(size, 3, 8, 8, requires_grad=True)
        assert relative_difference(network, running, image) < 1e-5
        assert not running(image).requires_grad


def test_a_layer_can_train_on_what_an_engine_gives() -> None:
    running = engine(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    layer = nn.Conv2d(4, 2, 3)
    layer(running(torch.randn(9, 3, 8, 8))).sum().backward()
    assert layer.weight.grad is not None


def test_half_precision_comes_back_as_float32_and_close() -> None:
    torch.manual_seed(0)
    network = stir(torchvision.models.resnet18())
    halved = engine(network, precision=torch.bfloat16)
    assert halved.description == "folded, bfloat16"
    image = torch.randn(2, 3, 64, 64)
    assert halved(image).dtype == torch.float32
    assert relative_difference(network, halved, image) < 0.05


def test_the_precision_is_what_the_machine_has_units_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "amx_bf16": False})
    assert fast_precision("cpu") == torch.float32
    assert training_dtype("bf16-mixed", "cpu") == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert fast_precision("cpu") == training_dtype("bf16-mixed", "cpu") == torch.bfloat16
    assert training_dtype("auto", "cpu") == training_dtype("32-true", "cpu") == torch.float32


STAGES = Stages((Stage("stem", ("conv1", "bn1")), Stage("layer1", ("layer1",)), Stage("layer2", ("layer2",))), ("fc",))
NAMES = (
    "conv1.weight",
    "bn1.weight",
    "bn1.running_mean",
    "layer1.weight",
    "layer1.running_mean",
    "layer2.weight",
    "fc.weight",
)


@pytest.mark.parametrize(
    ("moving", "expected"),
    [
        (["fc.weight"], "layer2"),
        (["fc.weight", "layer2.weight"], "layer1"),
        (["layer1.running_mean"], "stem"),
        (["layer1.weight", "fc.weight"], "stem"),
        (["bn1.running_mean"], None),
        (["conv1.weight", "layer2.weight"], None),
        ([], "layer2"),
    ],
)
def test_the_frozen_prefix_ends_before_the_first_stage_that_moves(moving: list[str], expected: str | None) -> None:
    assert frozen_prefix(STAGES, NAMES, set(NAMES) - set(moving)) == expected
