"""Keras' layers with tensors, as graft computes them where donor.verify runs a Keras file's own model."""

import json
from collections.abc import Callable

import pytest
import torch

from graft.transfer.donors.keras.activations import Unknown
from graft.transfer.donors.keras.model import KerasModel
from graft.transfer.donors.keras.model_config import graph_of
from tests.transfer.keras_models import keras

L = keras.layers
# Keras' Variable.__array__ has no `copy` keyword yet, which NumPy 2 wants: keras-team/keras#21319.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
ROW, MAP, VOLUME = (9, 4), (8, 7, 4), (5, 4, 3, 2)

WEIGHTED: dict[str, tuple[Callable, tuple[int, ...]]] = {
    "dense": (lambda: L.Dense(3), (6,)),
    "dense without bias, activated": (lambda: L.Dense(3, use_bias=False, activation="tanh"), MAP),
    "convolution": (lambda: L.Conv2D(5, 3), MAP),
    "convolution, same": (lambda: L.Conv2D(5, (3, 2), strides=2, padding="same", activation="relu"), MAP),
    "convolution, dilated": (lambda: L.Conv2D(5, 3, dilation_rate=(2, 1), padding="same", use_bias=False), MAP),
    "convolution, grouped": (lambda: L.Conv2D(6, 3, groups=2), MAP),
    "convolution, channels first": (lambda: L.Conv2D(5, 3, data_format="channels_first"), (4, 8, 7)),
    "convolution of a row": (lambda: L.Conv1D(5, 3, strides=2, padding="same"), ROW),
    "convolution of a row, causal": (lambda: L.Conv1D(5, 3, padding="causal", dilation_rate=2), ROW),
    "convolution of a volume": (lambda: L.Conv3D(5, 2, padding="same"), VOLUME),
    "depthwise": (lambda: L.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2), MAP),
    "depthwise of a row": (lambda: L.DepthwiseConv1D(3, use_bias=False), ROW),
    "separable": (lambda: L.SeparableConv2D(5, 3, padding="same", depth_multiplier=2), MAP),
    "separable of a row": (lambda: L.SeparableConv1D(5, 3, strides=2), ROW),
    **{
        f"transposed, window {window}, stride {stride}, {padding}": (
            lambda window=window, stride=stride, padding=padding: L.Conv2DTranspose(5, window, stride, padding), MAP,
        )
        for window, stride in ((3, 2), (2, 2), (4, 2), (3, 1), (2, 3))
        for padding in ("same", "valid")
    },
    "transposed of a row": (lambda: L.Conv1DTranspose(5, 3, 2, "same"), ROW),
    "transposed of a volume": (lambda: L.Conv3DTranspose(5, 3, 2), VOLUME),
    "batch norm": (lambda: L.BatchNormalization(epsilon=0.01), MAP),
    "batch norm over rows": (lambda: L.BatchNormalization(axis=1), MAP),
    "batch norm without scale": (lambda: L.BatchNormalization(scale=False), MAP),
    "batch norm without centre": (lambda: L.BatchNormalization(center=False), ROW),
    "layer norm": (lambda: L.LayerNormalization(epsilon=0.01), MAP),
    "layer norm over two axes": (lambda: L.LayerNormalization(axis=[2, 3]), MAP),
    "group norm": (lambda: L.GroupNormalization(2, epsilon=0.01), MAP),
    "instance norm": (lambda: L.GroupNormalization(-1), MAP),
    "normalization, adapted": (lambda: L.Normalization(axis=-1), MAP),
    "normalization by the config": (lambda: L.Normalization(mean=[1.0, 2, 3, 4], variance=[4.0, 3, 2, 1]), MAP),
    "normalization, the way back": (lambda: L.Normalization(mean=2.0, variance=4.0, invert=True), MAP),
    "parametric relu": (lambda: L.PReLU(shared_axes=[1, 2]), MAP),
    "embedding": (lambda: L.Embedding(6, 3), (5,)),
}  # fmt: skip


@pytest.mark.parametrize("case", WEIGHTED)
def test_a_layer_with_tensors_is_computed_as_keras_does(case: str) -> None:
    make, shape = WEIGHTED[case]
    entry = keras.Input(shape)
    model = keras.Model(entry, make()(entry))
    for place, weight in enumerate(model.weights):
        drawn = torch.rand(tuple(weight.shape), generator=torch.Generator().manual_seed(place))
        weight.assign(drawn + 0.5 if weight.path.endswith(("gamma", "variance")) else drawn - 0.5)
    for layer in model.layers:
        if isinstance(layer, L.Normalization):
            layer.finalize_state()
    values = {layer.name: {each.name: each.value.detach() for each in layer.weights} for layer in model.layers}
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(9))
    x = (x.abs() * 2).floor().clamp(max=5) if case == "embedding" else x
    with torch.no_grad():
        expected = model(x, training=False)
        received = KerasModel(graph_of(json.loads(model.to_json())), values.__getitem__)(x)
    assert received.shape == expected.shape
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(received, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: L.Conv2DTranspose(5, 3, 2, output_padding=1), "a Conv2DTranspose"),
        (lambda: L.GroupNormalization(2, axis=1), "a GroupNormalization"),
        (lambda: L.LSTM(3), "a LSTM"),
    ],
)
def test_what_graft_does_not_compute_is_told(make: Callable, what: str) -> None:
    entry = keras.Input(ROW if "LSTM" in what else MAP)
    model = keras.Model(entry, make()(entry))
    with pytest.raises(Unknown, match=what):
        KerasModel(graph_of(json.loads(model.to_json())), lambda name: {})
