"""graft export --format keras: the same function, and the same bits when the file is a donor again."""

import os
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet18

from graft.commands import export
from graft.config.faults import InputError, RunFailed
from graft.config.schema import BackboneConfig, HeadConfig, HeadKind, KerasConfig, Library
from graft.inference.load import open_model
from graft.models.network import build_network
from graft.results.keras.graph import keras_model
from graft.results.keras.layers import Unmapped
from graft.results.keras.write import check_bits, write_keras
from graft.transfer.donors import open_donor

os.environ["KERAS_BACKEND"] = "torch"
os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp(prefix="keras-home-"))
import keras

# Keras' Variable.__array__ has no `copy` keyword yet, which NumPy 2 wants: keras-team/keras#21319.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def shaken(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand(value.shape, generator=generator))
    return module.eval()


def assert_same(module: nn.Module, shape: tuple[int, int, int]) -> None:
    model, _ = keras_model(keras, module, shape)
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = module(images)
    assert expected.std() > 1e-3
    said = keras.ops.convert_to_numpy(model(images.permute(0, 2, 3, 1).numpy(), training=False))
    np.testing.assert_allclose(said, expected.numpy(), atol=1e-4 * max(1.0, float(expected.abs().max())))


class Branches(nn.Module):
    """What torchvision's and timm's blocks do: a sum, a gate, a concatenation, means written out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.wise = nn.Conv2d(8, 16, 5, padding=2, groups=8)
        self.grouped = nn.Conv2d(16, 8, 1, groups=2)
        self.gate = nn.Conv2d(8, 8, 1)
        self.act = nn.Hardswish()
        self.out = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.act(self.grouped(self.act(self.wise(x))))
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.out(torch.cat([x, x], 1).mean((2, 3)))


def vgg_like() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1), nn.Conv2d(6, 4, 3), nn.ReLU6(),
        nn.MaxPool2d(2, ceil_mode=True), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(),
        nn.Linear(16, 10), nn.LeakyReLU(0.2), nn.Linear(10, 3),
    )  # fmt: skip


def test_flattened_maps_pools_and_borders():
    assert_same(shaken(vgg_like()), (3, 17, 17))


def test_sums_gates_concatenations_and_groups():
    assert_same(shaken(Branches()), (3, 32, 32))


@pytest.mark.parametrize("build", [resnet18, mobilenet_v2])
def test_torchvision_s_own(build):
    assert_same(shaken(build(num_classes=3)), (3, 64, 64))


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5"])
def test_read_back_it_gives_every_bit(tmp_path, name):
    module = shaken(vgg_like())
    model, flatten = keras_model(keras, module, (3, 17, 17))
    assert flatten == {"9": 4, "11": 0}
    model.save(tmp_path / name) if name == "m.keras" else model.save_weights(tmp_path / name)
    check_bits(module, tmp_path / name, flatten)
    with torch.no_grad():
        module[9].weight[0, 0] += 1e-6
    with pytest.raises(RunFailed, match=r"1 of 8 \(9\.weight\)"):
        check_bits(module, tmp_path / name, flatten)


@pytest.mark.slow
def test_a_timm_model_that_pads_as_tensorflow(tmp_path, export_network):
    backbone, head = (
        BackboneConfig(library=Library.timm, name="tf_efficientnet_lite0"),
        HeadConfig(kind=HeadKind.linear),
    )
    built = build_network(backbone, head, num_classes=3, image_size=64, seed=3)
    folder = export_network(tmp_path / "model", built)
    write_keras(open_model(folder), tmp_path / "lite.keras")
    with open_donor(tmp_path / "lite.keras", keras=KerasConfig(accept=["padding"])) as donor:
        read = {name.replace("__", "."): donor.read(name) for name in donor.infos}
    state = open_model(folder).module.state_dict()
    assert len(read) == sum(not name.endswith("num_batches_tracked") for name in state)
    assert torch.equal(read["blocks.3.0.conv_dw.weight"], state["blocks.3.0.conv_dw.weight"])


class Odd(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect" if what == "border" else "zeros")
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if self.what == "scale":
            x = x * self.scale
        if self.what == "maximum":
            x = nn.functional.max_pool2d(x, 3)
        if self.what == "branch" and x.sum() > 0:
            x = -x
        return x.mean((2, 3))


@pytest.mark.parametrize(
    ("what", "said"),
    [("scale", "scale, a tensor"), ("maximum", "max_pool2d"), ("border", "reflect"), ("branch", "cannot be traced")],
)
def test_what_keras_has_not_is_named(what, said):
    with pytest.raises(Unmapped, match=said):
        keras_model(keras, Odd(what), (3, 16, 16))


def test_a_maximum_over_a_border_needs_values_from_zero():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(Unmapped, match="minus infinity"):
        keras_model(keras, module, (3, 16, 16))


def test_the_command_says_what_to_type_instead(timm_model, tmp_path):
    opened = open_model(timm_model)
    with pytest.raises(InputError, match=r"\.weights\.h5"):
        export.WRITERS["keras"][1](opened, tmp_path / "x.h5")
    odd = replace(opened, module=Odd("scale"))
    with pytest.raises(InputError, match="try --format onnx"):
        write_keras(odd, tmp_path / "x.keras")
    assert list(tmp_path.iterdir()) == []
