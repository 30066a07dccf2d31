"""Keras' applications as a run takes them: `donor=keras backbone=NAME`, from the raw image to the answers.

The backbone is altered as its YAML says, and gets its images as the file, or Keras' preprocess_input, prepares them.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.composed import composed
from graft.config.faults import InputError
from graft.config.schema import KerasConfig
from graft.models.network import Network, network_for, with_donor_preprocess
from graft.transfer import account_donor, inject, target_of_module
from graft.transfer.chosen import open_chosen, rules_for
from graft.transfer.donors import open_donor
from graft.transfer.verify import verify
from tests.transfer.keras_models import CLASSES, assert_same_answers, keras, patches, shaken, written

L = keras.layers
# Keras' Variable.__array__ has no `copy` keyword yet, which NumPy 2 wants: keras-team/keras#21319.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
Prepare = Callable[[np.ndarray], np.ndarray]

FAMILIES: dict[str, tuple[str, str, int, tuple[str, ...]]] = {
    "VGG19": ("vgg19", "vgg19", 224, ("donor.keras.input=bgr",)),
    "ResNet50": ("resnet50", "resnet", 64, ("donor.keras.input=bgr",)),
    "ResNet152": ("resnet152", "resnet", 160, ("donor.keras.input=bgr",)),
    "MobileNet": ("mobilenet_v1", "mobilenet", 64, ()),
    "MobileNetV2": ("mobilenet_v2", "mobilenet_v2", 64, ()),
    "MobileNetV3Small": ("mobilenet_v3_small", "mobilenet_v3", 64, ()),
    "EfficientNetB0": ("tf_efficientnet_b0", "efficientnet", 64, ()),
    "EfficientNetV2S": ("efficientnet_v2_s", "efficientnet_v2", 64, ()),
    "DenseNet121": ("densenet121", "densenet", 64, ()),
    "InceptionV3": ("inception_v3", "inception_v3", 75, ()),
    "ConvNeXtTiny": ("convnext_tiny", "convnext", 64, ()),
}
"""Each application's backbone here, its module in keras.applications, its side in pixels, and what the run is told.

At 64 pixels the norms of 152 layers make a difference of 1e-7 in the image one of 2e-3 in the answers, also in Keras.
"""
UNSTEADY = ("EfficientNetB0", "EfficientNetV2S", "ResNet152")
"""Their norms, of a few images, make a difference in the last bit grow so much with noise, which donor.verify goes by,
that no two ways of computing agree."""
HEADS = {"MobileNet": "classifier.", "MobileNetV2": "classifier.1.", "EfficientNetB0": "classifier."}
ACCEPTED = {"MobileNet": "padding", "MobileNetV2": "padding", "InceptionV3": "averaging", "ResNet50": "strides"}
"""What each backbone computes otherwise where it is not altered."""


def application(name: str, size: int, **settings: Any) -> Any:
    keras.utils.set_random_seed(0)
    return getattr(keras.applications, name)(input_shape=(size, size, 3), weights=None, **settings)


def whole(name: str, size: int) -> Any:
    return application(name, size, classes=CLASSES, classifier_activation=None)


def keras_s_own(module: str) -> Prepare:
    """What Keras has people do to images before this application."""
    return getattr(keras.applications, module).preprocess_input


def grafted(path: Path, backbone: str, size: int, *words: str) -> tuple[Network, dict[str, Any]]:
    """The network of a run that keeps the backbone's own head, and the account of its transfer."""
    config = composed(
        "donor=keras", f"donor.path={path}", f"backbone={backbone}", "head=none", f"data.image_size={size}", *words,
    )  # fmt: skip
    network = network_for(config.network, CLASSES)
    with open_chosen(config.network) as donor:
        ledger = account_donor(donor, target_of_module(network.module), rules_for(config.network, network, ()))
        inject(ledger, donor, network.module)
        if config.donor.verify:
            verify(config.network, ledger, donor, network)
    return with_donor_preprocess(network, config.network, ledger.preprocess), ledger.to_dict()


def answers(network: Network, images: np.ndarray) -> torch.Tensor:
    """To images with values from 0 to 255, which the network's preprocessing takes from 0 to 1."""
    told = network.preprocess
    mean, std = (torch.tensor(values)[:, None, None] for values in (told.mean, told.std))
    with torch.no_grad():
        return network.module.eval()((torch.from_numpy(images).movedim(-1, 1) / 255 - mean) / std)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["donor.keras", "donor.weights.h5"])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_application_answers_as_keras_does(tmp_path: Path, name: str, file: str) -> None:
    backbone, module, size, words = FAMILIES[name]
    images = patches(8, size)
    fed = keras_s_own(module)(images.copy())
    model = shaken(whole(name, size), np.ascontiguousarray(fed))
    # The other file has no config.
    proof = f"donor.verify={str(file == 'donor.keras' and name not in UNSTEADY).lower()}"
    network, account = grafted(written(model, tmp_path, file), backbone, size, *words, proof)
    assert account["summary"]["parameters_transferred_fraction"] == 1.0
    assert_same_answers(answers(network, images), model, fed)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_an_application_within_a_sequential_is_seen_through(tmp_path: Path, name: str) -> None:
    """As every tutorial saves it: the images prepared within, the trunk, its pooling, and a head of one's own."""
    backbone, _, size, _ = FAMILIES[name]
    images = patches(8, size)
    model = shaken(
        keras.Sequential([
            keras.Input((size, size, 3)), L.Rescaling(1 / 127.5, offset=-1), application(name, size, include_top=False),
            L.GlobalAveragePooling2D(), L.Dropout(0.2), L.Dense(CLASSES, name="own"),
        ]),
        images,
    )  # fmt: skip
    rule = rf"donor.rename=[['^own\.','{HEADS[name]}']]"
    network, account = grafted(written(model, tmp_path, "donor.keras"), backbone, size, rule)
    assert account["summary"]["parameters_transferred_fraction"] == 1.0
    assert_same_answers(answers(network, images), model, images)


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCEPTED)
def test_a_backbone_that_is_not_altered_computes_something_else(tmp_path: Path, name: str) -> None:
    """What donor.keras.accept leaves as the library has it."""
    backbone, module, size, words = FAMILIES[name]
    images = patches(8, size)
    fed = keras_s_own(module)(images.copy())
    model = shaken(whole(name, size), np.ascontiguousarray(fed))
    accepted = f"donor.keras.accept=[{ACCEPTED[name]}]"
    network, account = grafted(written(model, tmp_path, "donor.keras"), backbone, size, *words, accepted)
    assert any(remark.startswith(f"accepted ({ACCEPTED[name]})") for remark in account["remarks"])
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same_answers(answers(network, images), model, fed)


@pytest.mark.parametrize("file", ["donor.keras", "donor.weights.h5"])
def test_the_file_s_own_preparation_is_the_run_s(tmp_path: Path, file: str) -> None:
    """A Rescaling and a Normalization of each channel, before MobileNet, as donor.verify has it too."""
    entry = keras.Input((64, 64, 3))
    prepared = L.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.04, 0.09, 0.16])(L.Rescaling(1 / 255)(entry))
    images = patches(4, 64)
    model = shaken(keras.Model(entry, whole("MobileNet", 64)(prepared)), images)
    words: tuple[str, ...] = ("donor.verify=true",)
    if file.endswith("weights.h5"):  # which has no word of a Rescaling
        words = ("backbone.published.preprocess.mean=[0.4,0.5,0.6]", "backbone.published.preprocess.std=[0.2,0.3,0.4]")
    network, _ = grafted(written(model, tmp_path, file), "mobilenet_v1", 64, *words)
    assert network.preprocess.mean == pytest.approx([0.4, 0.5, 0.6], abs=1e-6)
    assert network.preprocess.std == pytest.approx([0.2, 0.3, 0.4], abs=1e-6)
    assert_same_answers(answers(network, images), model, images)


def test_verify_notices_a_tensor_in_another_s_place(tmp_path: Path) -> None:
    images = patches(4, 64)
    path = written(shaken(whole("MobileNet", 64), images / 127.5 - 1), tmp_path, "donor.keras")
    swap = r"donor.rename=[['^conv_pw_8','x'],['^conv_pw_9','conv_pw_8'],['^x','conv_pw_9']]"
    with pytest.raises(InputError, match=r"donor\.verify: expected features within .*, received a difference of"):
        grafted(path, "mobilenet_v1", 64, "donor.verify=true", swap)


def test_verify_needs_a_file_that_describes_its_model(tmp_path: Path) -> None:
    path = written(whole("MobileNet", 64), tmp_path, "donor.weights.h5")
    with pytest.raises(InputError, match=r"a Keras file of weights alone does not say how its model computes"):
        grafted(path, "mobilenet_v1", 64, "donor.verify=true")


@pytest.mark.parametrize(
    ("layers", "largest", "mean", "std"),
    [
        ((L.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.04, 0.09, 0.16]),), 1, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]),
        ((L.Rescaling(1 / 127.5, -1),), 255, [0.5] * 3, [0.5] * 3),
        ((L.Rescaling(2, -1),), 1, [0.5] * 3, [0.5] * 3),
        ((L.Resizing(64, 64), L.Rescaling(1 / 255)), 255, [0] * 3, [1] * 3),
    ],
    ids=["normalization", "of bytes", "of fractions", "behind a resizing"],
)
def test_a_preparation_is_told_with_the_range_that_it_takes(
    tmp_path: Path, layers: tuple[Any, ...], largest: int, mean: list[float], std: list[float]
) -> None:
    model = keras.Sequential([keras.Input((64, 64, 3)), *layers, L.Conv2D(4, 3, name="conv"), L.ReLU()])
    with open_donor(written(model, tmp_path, "donor.keras"), keras=KerasConfig()) as donor:
        assert donor.preprocess is not None
        assert (donor.preprocess.mean, donor.preprocess.std) == (pytest.approx(mean), pytest.approx(std))
        assert any(f"taken from 0 to {largest}," in remark for remark in donor.remarks)


KNOWN = {
    "VGG16": "Keras' published VGG ", "ResNet50": "Keras' ResNet;", "ResNet50V2": "Keras' ResNetV2;",
    "DenseNet121": "Keras' DenseNet;", "MobileNet": "Keras' MobileNet;", "MobileNetV2": "Keras' MobileNetV2;",
    "MobileNetV3Small": "Keras' MobileNetV3;", "EfficientNetB0": "Keras' EfficientNet;",
    "EfficientNetV2B0": "Keras' EfficientNetV2;", "InceptionV3": "Keras' InceptionV3;", "Xception": "Keras' Xception;",
    "ConvNeXtTiny": "layernorm: computed with epsilon 1e-06",
}  # fmt: skip
"""What is said of a file of each one's weights."""


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_a_file_of_weights_alone_is_known_by_its_structure_and_has_its_epsilons(tmp_path: Path, name: str) -> None:
    model = application(name, 75, include_top=False)
    path = written(model, tmp_path, "donor.weights.h5")
    with open_donor(path, keras=KerasConfig(accept=["bgr", "padding", "strides", "averaging"])) as donor:
        told = "\n".join([*donor.remarks, *(doubt.reason for doubt in donor.doubts)])
        found = {info.epsilon for info in donor.infos.values()} - {None}
    norms = (L.BatchNormalization, L.LayerNormalization)
    assert found == {layer.epsilon for layer in model._flatten_layers() if isinstance(layer, norms)}
    assert re.search(KNOWN[name], told), told


@pytest.mark.slow
def test_xception_is_doubted_only_where_a_window_of_it_has_an_uneven_border(tmp_path: Path) -> None:
    path = written(application("Xception", 71, include_top=False), tmp_path, "donor.keras")
    for size, doubted in ((71, []), (None, []), (299, ["block3_pool: pads one side more than the other"])):
        with open_donor(path, keras=KerasConfig(), image_size=size) as donor:
            assert [doubt.reason.split(",")[0] for doubt in donor.doubts] == doubted
