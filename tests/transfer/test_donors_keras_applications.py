"""Keras' own applications into their twins, by the names that each backbone's YAML gives: the same function."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional

from graft.config.compose import section_of
from graft.config.faults import InputError
from graft.config.schema import BackboneConfig, KerasConfig
from graft.transfer import Ledger, Rules, account_donor, inject, target_of_module
from graft.transfer.donors import open_donor
from tests.transfer.keras_models import assert_same_answers, keras, patches, shaken
from tests.transfer.keras_models import written as write

# Keras' Variable.__array__ has no `copy` keyword yet, which NumPy 2 wants: keras-team/keras#21319.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
CONF = Path(__file__).resolve().parents[2] / "conf" / "backbone"


def backbone(name: str) -> BackboneConfig:
    return section_of(BackboneConfig, OmegaConf.load(CONF / f"{name}.yaml"))


def images(size: int) -> np.ndarray:
    return patches(8, size) / 127.5 - 1


def written(model, folder: Path, file: str = "donor.weights.h5") -> Path:
    return write(shaken(model, images(model.input_shape[1])), folder, file)


def grafted(path: Path, name: str, module: nn.Module, **options) -> Ledger:
    """Fills the module as a run would, by the backbone's YAML and nothing else."""
    known = backbone(name).keras
    rules = Rules(auto_rename=known.rename, auto_ignore=dict.fromkeys(known.ignore, "no place"))
    with open_donor(path, keras=KerasConfig(**options), application=known) as donor:
        ledger = account_donor(donor, target_of_module(module), rules)
        inject(ledger, donor, module)
    module.eval()
    return ledger


def assert_same_function(model, module: nn.Module, size: int, *, bgr: bool = False) -> None:
    given = images(size)
    with torch.no_grad():
        received = module(torch.from_numpy(given).movedim(-1, 1))
    assert_same_answers(received, model, given[..., ::-1] if bgr else given)


def pad_as_tensorflow(module: nn.Module) -> None:
    """One side more than the other at a stride, for even sizes: what torchvision's own networks do not do."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d) and child.stride == (2, 2) and child.kernel_size == (3, 3):
            child.padding = (0, 0)
            child.register_forward_pre_hook(lambda _, given: functional.pad(given[0], (0, 1, 0, 1)))


def stride_as_keras(module: nn.Module) -> None:
    """In a block's first 1×1 convolution rather than in its 3×3."""
    for child in module.modules():
        if isinstance(child, torchvision.models.resnet.Bottleneck):
            child.conv1.stride, child.conv2.stride = child.conv2.stride, child.conv1.stride


@pytest.mark.parametrize("file", ["donor.weights.h5", "donor.keras"])
def test_mobilenet_into_timm_s_padded_alike(tmp_path: Path, file: str) -> None:
    model = keras.applications.MobileNet((64, 64, 3), weights=None, include_top=False, pooling="avg")
    module = timm.create_model("mobilenetv1_100", num_classes=0, pad_type="same")
    ledger = grafted(written(model, tmp_path, file), "mobilenet_v1", module, accept=["padding"])
    assert ledger.by_target["blocks.3.5.bn2.running_var"].source == "conv_pw_11_bn.running_var"
    assert ledger.by_target["blocks.3.5.bn2.running_var"].rule.endswith("epsilon_fold: var' = var + 0.001 − 1e-05")
    assert ledger.summary["parameters_transferred_fraction"] == 1.0
    assert_same_function(model, module, 64)


@pytest.mark.slow
def test_mobilenet_v2_into_torchvision_s(tmp_path: Path) -> None:
    model = keras.applications.MobileNetV2((64, 64, 3), weights=None, classifier_activation=None)
    module = torchvision.models.mobilenet_v2()
    path = written(model, tmp_path, "donor.keras")
    with pytest.raises(InputError, match=r"pads one side more.*donor\.keras\.accept=\[padding\]"):
        grafted(path, "mobilenet_v2", module)
    ledger = grafted(path, "mobilenet_v2", module, accept=["padding"])
    assert any(remark.startswith("accepted (padding)") for remark in ledger.remarks)
    pad_as_tensorflow(module)
    assert_same_function(model, module, 64)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["donor.weights.h5", "donor.keras", "donor.h5"])
def test_efficientnet_b0_into_timm_s_tensorflow_twin(tmp_path: Path, file: str) -> None:
    model = keras.applications.EfficientNetB0(
        input_shape=(64, 64, 3), weights=None, classes=10, classifier_activation=None
    )
    module = timm.create_model("tf_efficientnet_b0", num_classes=10)
    ledger = grafted(written(model, tmp_path, file), "tf_efficientnet_b0", module)
    excused = [entry.source for entry in ledger.donor_tensors if not entry.used]
    assert excused
    assert all(name.startswith("normalization") for name in excused)
    assert not any("accepted" in remark for remark in ledger.remarks)
    inner = keras.Model(model.get_layer("stem_conv_pad").input, model.output)  # behind the input's normalization
    assert_same_function(inner, module, 64)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 101, 152])
def test_resnet_v1_into_torchvision_s(tmp_path: Path, depth: int) -> None:
    model = getattr(keras.applications, f"ResNet{depth}")(
        input_shape=(64, 64, 3), weights=None, classes=10, classifier_activation=None
    )
    module = torchvision.models.get_model(f"resnet{depth}", num_classes=10)
    path = written(model, tmp_path)
    with pytest.raises(InputError, match=r"strides in the first 1×1.*blue, green, red.*accept=\[strides\].*input=bgr"):
        grafted(path, f"resnet{depth}", module)
    ledger = grafted(path, f"resnet{depth}", module, accept=["strides"], input="bgr")
    assert any(remark.startswith("accepted (strides)") for remark in ledger.remarks)
    stride_as_keras(module)
    assert_same_function(model, module, 64, bgr=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "make"), [("vgg16", keras.applications.VGG16), ("vgg19", keras.applications.VGG19)])
def test_vgg_into_torchvision_s_flatten_order_and_colours_included(tmp_path: Path, name: str, make: Callable) -> None:
    model = make(input_shape=(224, 224, 3), weights=None, classes=10, classifier_activation=None)
    module = torchvision.models.get_model(name, num_classes=10)
    path = written(model, tmp_path)
    with pytest.raises(InputError, match=r"blue, green, red.*donor\.keras\.input=bgr"):
        grafted(path, name, module)
    ledger = grafted(path, name, module, input="bgr")
    assert ledger.by_target["classifier.0.weight"].source == "fc1.weight"
    assert_same_function(model, module, 224, bgr=True)
