"""graft diff and graft transfer on files of Keras: the same account as of torch's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

# Keras' Variable.__array__ has no `copy` keyword yet, which NumPy 2 wants: keras-team/keras#21319.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def changes(printed: str) -> dict[str, float]:
    return {row["name"]: row["change"] for row in json.loads(printed)["tensors"]}


def squeezenet(keras):
    """torchvision's squeezenet1_1, layer by layer."""
    layers = keras.layers
    image = keras.Input((64, 64, 3))
    x = layers.MaxPooling2D(3, 2)(layers.Conv2D(64, 3, 2, activation="relu")(image))
    for squeezed, expanded in ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)):
        small = layers.Conv2D(squeezed, 1, activation="relu")(x)
        left = layers.Conv2D(expanded, 1, activation="relu")(small)
        right = layers.Conv2D(expanded, 3, padding="same", activation="relu")(small)
        x = layers.Concatenate()([left, right])
    return keras.Model(image, layers.Conv2D(1000, 1)(x))


@pytest.mark.slow
@pytest.mark.parametrize("file", ["donor.keras", "donor.h5"])
def test_a_keras_file_is_transferred_and_compared(
    graft, tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    import keras

    model = squeezenet(keras)
    donor, out = tmp_path / file, tmp_path / "out.safetensors"
    model.save(donor)
    words = ("--to-arch", "squeezenet1_1", "--match", "structure", "--out", out)
    code, _, err = graft("transfer", "--from", donor, *words)
    assert code == 0, err
    given_HWIO = [keras.ops.convert_to_numpy(weight) for weight in model.weights if len(weight.shape) == 4]
    taken_OIHW = [value.numpy() for name, value in load_file(out).items() if name.endswith("weight")]
    assert len(given_HWIO) == len(taken_OIHW) == 26
    sums = [sorted(float(np.abs(value).sum()) for value in side) for side in (given_HWIO, taken_OIHW)]
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    assert np.array_equal(load_file(out)["features.0.weight"].numpy(), given_HWIO[0].transpose(3, 2, 0, 1))
    model.layers[1].kernel.assign(2 * model.layers[1].kernel)
    model.save(tmp_path / f"after-{file}")
    code, printed, err = graft("diff", donor, tmp_path / f"after-{file}", "--json")
    assert code == 0, err
    found = changes(printed)
    assert sorted(found.values())[-2:] == pytest.approx([0, 1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("application", "arch", "words"),
    [
        ("EfficientNetB0", "tf_efficientnet_b0", ()),  # a preset's rules, and the file's own normalization
        ("ResNet50", "resnet50", ("--keras", "input=bgr", "--keras", "accept=[strides]")),
    ],
)
def test_a_model_s_own_preset_knows_the_names_of_keras(
    graft, tmp_path: Path, application: str, arch: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    import keras

    model = getattr(keras.applications, application)(input_shape=(64, 64, 3), weights=None)
    model.save_weights(tmp_path / "donor.weights.h5")
    code, out, err = graft("inspect", tmp_path / "donor.weights.h5", "--json")
    assert code == 0, err  # whatever stands against a transfer
    shapes = {row["name"]: row["shape"] for row in json.loads(out)["tensors"]}
    assert shapes["predictions.weight"][0] == 1000
    taken = tmp_path / "out.safetensors"
    code, _, err = graft("transfer", "--from", tmp_path / "donor.weights.h5", "--to-arch", arch, "--out", taken, *words)
    assert code == 0, err
    last = {"tf_efficientnet_b0": "classifier.weight", "resnet50": "fc.weight"}[arch]
    kernel = keras.ops.convert_to_numpy(model.get_layer("predictions").kernel)
    assert np.array_equal(load_file(taken)[last].numpy(), kernel.T)


def test_inspect_lists_a_file_that_no_network_could_take_as_it_is(graft, tmp_path: Path) -> None:
    """ResNet's names: strides and colours stand against a transfer, not against looking inside."""
    import h5py

    with h5py.File(tmp_path / "donor.weights.h5", "w") as file:
        for name, side in {"1_conv": 1, "2_conv": 3, "3_conv": 1}.items():
            file[f"layers/conv2_block1_{name}/vars/0"] = np.ones((side, side, 3, 3), "float32")
        for number in range(4):
            file[f"layers/conv2_block1_3_bn/vars/{number}"] = np.ones(3, "float32")
    code, out, err = graft("inspect", tmp_path / "donor.weights.h5", "--json")
    assert code == 0, err
    names = [row["name"] for row in json.loads(out)["tensors"]]
    assert [name.removeprefix("conv2_block1_") for name in names] == [
        "1_conv.weight", "2_conv.weight", "3_bn.weight", "3_bn.bias", "3_bn.running_mean", "3_bn.running_var",
        "3_conv.weight",
    ]  # fmt: skip
    code, out, err = graft("inspect", tmp_path / "donor.weights.h5")
    assert code == 0, err
    told = " ".join(out.split())
    assert "Keras' ResNet strides in the first 1×1 convolution of a block" in told
    assert "which turns the first convolution round" in told
