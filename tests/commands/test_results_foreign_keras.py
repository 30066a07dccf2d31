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
