"""Keras models none of whose values a mistake could hide behind, and images that they tell apart."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

os.environ["KERAS_BACKEND"] = "torch"
os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp(prefix="keras-home-"))  # where it writes settings when imported
import keras

CLASSES = 7


def patches(count: int, size: int, seed: int = 1) -> np.ndarray:
    """Images of 4 × 4 patches with values from 0 to 255. Of mere noise a network's pooled features are alike."""
    patch = np.random.default_rng(seed).uniform(0, 255, (count, 4, 4, 3))
    side = -(-size // 4)
    return np.kron(patch, np.ones((1, side, side, 1)))[:, :size, :size].astype("float32")


def shaken(model: Any, images: np.ndarray) -> Any:
    """The model with random norms, biases and preparations, and the batch statistics of these images.

    With others its answers are the same for every image: what passes a layer shrinks from block to block.
    """
    generator = np.random.default_rng(0)
    layers = list(model._flatten_layers())
    normed = any(
        isinstance(layer, keras.layers.BatchNormalization | keras.layers.LayerNormalization) for layer in layers
    )
    for layer in layers:
        for weight in layer.weights if not getattr(layer, "layers", ()) else ():
            name = weight.path.rpartition("/")[2]
            if name == "gamma":
                weight.assign(generator.uniform(0.8, 1.2, weight.shape))
            elif name in ("beta", "bias"):
                weight.assign(generator.uniform(-0.1, 0.1, weight.shape))
            elif name == "kernel" and not normed:  # half of what passes a rectifier is gone
                weight.assign(weight * 2**0.5)
            elif isinstance(layer, keras.layers.Normalization) and name in ("mean", "variance"):
                weight.assign(generator.uniform(0.2, 0.3, weight.shape))
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    with torch.no_grad():
        model(torch.from_numpy(images), training=True)
    return model


def written(model: Any, folder: Path, file: str) -> Path:
    path = folder / file
    model.save_weights(path) if file.endswith("weights.h5") else model.save(path)
    return path


@torch.no_grad()
def assert_same_answers(received: torch.Tensor, model: Any, images: np.ndarray) -> None:
    """To the images, as the Keras model gets them; it must tell them apart by far more than the tolerance."""
    expected = model(torch.from_numpy(np.ascontiguousarray(images)), training=False).numpy()
    between_images = np.abs(expected - expected[::-1]).max()
    assert between_images > 0.01 * np.abs(expected).max()
    np.testing.assert_allclose(received.numpy(), expected, rtol=0, atol=1e-3 * between_images)
