"""Every Keras layer without tensors: what graft computes it as, and which torch layer may stand in its place."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from graft import TransferError, transfer
from graft.transfer.donors.keras.activations import NAMES, Unknown, activation
from graft.transfer.donors.keras.model import KerasModel
from graft.transfer.donors.keras.model_config import graph_of
from graft.transfer.habits import Habit, habits_of

os.environ["KERAS_BACKEND"] = "torch"
os.environ["KERAS_HOME"] = tempfile.mkdtemp(prefix="keras-home-")  # where it writes its settings when it is imported
import keras

L = keras.layers
# Keras' Variable.__array__ has no `copy` keyword yet, which NumPy 2 wants: keras-team/keras#21319.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
MAP = (7, 5, 3)

# -- what graft computes a layer as, without Keras

COMPUTED: dict[str, tuple[Callable, tuple[int, ...], int]] = {
    **{
        f"{name}_{'_'.join(map(str, np.ravel(sides)))}_{padding}": (
            lambda name=name, sides=sides, padding=padding: getattr(L, f"{name}Pooling2D")(*sides, padding), MAP, 1,
        )
        for name in ("Max", "Average")
        for sides in ((2, 2), (3, 1), (3, 2), (5, 3))
        for padding in ("same", "valid")
        if (name, sides, padding) != ("Average", (5, 3), "same")  # uneven: see the next test
    },
    "max_1d": (lambda: L.MaxPooling1D(3, 2, "same"), (7, 3), 1),
    "max_3d": (lambda: L.MaxPooling3D(3, 2, "same"), (3, 5, 4, 2), 1),
    "average_1d": (lambda: L.AveragePooling1D(3, 2, "same"), (7, 3), 1),
    "average_3d": (lambda: L.AveragePooling3D(3, 1, "same"), (3, 5, 4, 2), 1),
    "average_channels_first": (lambda: L.AveragePooling2D(3, 1, "same", data_format="channels_first"), (3, 7, 5), 1),
    "global_average": (L.GlobalAveragePooling2D, MAP, 1),
    "global_average_keeps": (lambda: L.GlobalAveragePooling2D(keepdims=True), MAP, 1),
    "global_average_channels_first": (lambda: L.GlobalAveragePooling2D(data_format="channels_first"), (3, 7, 5), 1),
    "global_max": (lambda: L.GlobalMaxPooling2D(keepdims=True), MAP, 1),
    "global_average_1d": (L.GlobalAveragePooling1D, (7, 3), 1),
    "adaptive_average": (lambda: L.AdaptiveAveragePooling2D((3, 2)), MAP, 1),
    "adaptive_max": (lambda: L.AdaptiveMaxPooling2D(3), MAP, 1),
    "zero_padding": (lambda: L.ZeroPadding2D(((0, 1), (2, 3))), MAP, 1),
    "zero_padding_each_axis": (lambda: L.ZeroPadding2D((1, 2)), MAP, 1),
    "zero_padding_1d": (lambda: L.ZeroPadding1D((1, 2)), (7, 3), 1),
    "zero_padding_3d": (lambda: L.ZeroPadding3D(((1, 2), (0, 1), (2, 2))), (3, 5, 4, 2), 1),
    "cropping": (lambda: L.Cropping2D(((0, 1), (2, 1))), MAP, 1),
    "cropping_1d": (lambda: L.Cropping1D(2), (7, 3), 1),
    "cropping_3d": (lambda: L.Cropping3D(1), (3, 5, 4, 2), 1),
    "center_crop": (lambda: L.CenterCrop(4, 4), MAP, 1),
    "up_sampling": (lambda: L.UpSampling2D((2, 3)), MAP, 1),
    "up_sampling_bilinear": (lambda: L.UpSampling2D(2, interpolation="bilinear"), MAP, 1),
    "up_sampling_1d": (lambda: L.UpSampling1D(2), (7, 3), 1),
    "up_sampling_3d": (lambda: L.UpSampling3D(2), (3, 5, 4, 2), 1),
    "resizing": (lambda: L.Resizing(9, 4), MAP, 1),
    "rescaling": (lambda: L.Rescaling(1 / 127.5, -1), MAP, 1),
    "rescaling_each_channel": (lambda: L.Rescaling(0.5, [1.0, 2.0, 3.0]), MAP, 1),
    "flatten": (L.Flatten, MAP, 1),
    "reshape": (lambda: L.Reshape((5, -1)), MAP, 1),
    "permute": (lambda: L.Permute((2, 3, 1)), MAP, 1),
    "repeat_vector": (lambda: L.RepeatVector(4), (3,), 1),
    "masking": (L.Masking, (4, 3), 1),
    "unit_normalization": (lambda: L.UnitNormalization(axis=(1, 2)), MAP, 1),
    "add": (L.Add, MAP, 3),
    "subtract": (L.Subtract, MAP, 2),
    "multiply": (L.Multiply, MAP, 2),
    "average": (L.Average, MAP, 3),
    "maximum": (L.Maximum, MAP, 2),
    "minimum": (L.Minimum, MAP, 2),
    "concatenate": (L.Concatenate, MAP, 2),
    "concatenate_rows": (lambda: L.Concatenate(axis=1), MAP, 2),
    "dot": (lambda: L.Dot(axes=1, normalize=True), (4,), 2),
    "relu_with_everything": (lambda: L.ReLU(4.0, negative_slope=0.1, threshold=0.5), MAP, 1),
    "leaky_relu": (L.LeakyReLU, MAP, 1),
    "elu": (lambda: L.ELU(0.5), MAP, 1),
    "softmax_over_rows": (lambda: L.Softmax(axis=1), MAP, 1),
    "activation_layer": (lambda: L.Activation(L.LeakyReLU(0.25)), MAP, 1),
    "operators": (lambda: lambda x: 3 - (x * 2 + 1) / 4, MAP, 1),
    "operation": (lambda: keras.ops.gelu, MAP, 1),
    "turned_colours": (lambda: keras.applications.vgg16.preprocess_input, MAP, 1),
    **{
        name: (lambda name=name: getattr(L, name)(0.3), MAP, 1)
        for name in ("Dropout", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout",
                     "RandomRotation", "RandomZoom", "RandomContrast", "RandomBrightness", "ActivityRegularization")
    },
    "random_flip": (L.RandomFlip, MAP, 1),
    "identity": (L.Identity, MAP, 1),
}  # fmt: skip


def read(model) -> KerasModel:
    return KerasModel(graph_of(json.loads(model.to_json())), lambda name: {})


@pytest.mark.parametrize("case", COMPUTED)
def test_a_layer_without_tensors_is_computed_as_keras_does(case: str) -> None:
    make, shape, count = COMPUTED[case]
    inputs = [keras.Input(shape) for _ in range(count)]
    model = keras.Model(inputs, make()(inputs if count > 1 else inputs[0]))
    values = [torch.randn(2, *shape, generator=torch.Generator().manual_seed(place)) for place in range(count)]
    expected = model(values if count > 1 else values[0], training=False)
    received = read(model)(*values)
    assert received.shape == expected.shape
    torch.testing.assert_close(received, expected, rtol=0, atol=1e-6)


def test_an_uneven_border_is_left_out_of_an_average() -> None:
    """Keras' torch backend repeats the last row there; TensorFlow leaves the border out, and weights are from there."""
    entry = keras.Input((4, 1))
    model = read(keras.Model(entry, L.AveragePooling1D(3, 2, "same")(entry)))
    assert model(torch.tensor([[[1.0], [2.0], [3.0], [6.0]]])).flatten().tolist() == [2.0, 4.5]


@pytest.mark.parametrize("name", NAMES)
def test_an_activation_by_its_name_is_keras_s(name: str) -> None:
    x = torch.linspace(-4, 8, 40).reshape(1, 10, 4)
    torch.testing.assert_close(activation(name)(x), keras.activations.get(name)(x), rtol=0, atol=1e-6)


def test_a_hard_sigmoid_of_keras_2_is_another_one() -> None:
    x = torch.linspace(-4, 4, 9)
    torch.testing.assert_close(activation("hard_sigmoid", 2)(x), (0.2 * x + 0.5).clamp(0, 1))
    assert not torch.allclose(activation("hard_sigmoid", 2)(x), activation("hard_sigmoid", 3)(x), atol=1e-2)


UNKNOWN: dict[str, Callable] = {
    "a Lambda": lambda: L.Lambda(lambda x: x * 2),
    "a RandomCrop": lambda: L.RandomCrop(4, 4),
    "a Solarization": L.Solarization,
    "an UpSampling with the interpolation 'bicubic'": lambda: L.UpSampling2D(2, interpolation="bicubic"),
    "a Resizing with the interpolation 'nearest'": lambda: L.Resizing(3, 3, interpolation="nearest"),
    "a Resizing with antialias": lambda: L.Resizing(3, 3, antialias=True),
    "the activation 'sparsemax'": lambda: L.Activation("sparsemax"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_graft_does_not_compute_is_named(what: str) -> None:
    entry = keras.Input(MAP)
    with pytest.raises(Unknown, match=what):
        read(keras.Model(entry, UNKNOWN[what]()(entry)))


# -- which layer of torch's may stand in its place


class Leaky(nn.Module):
    """A call of a function, which no census of modules sees."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.leaky_relu(x, 0.3)


class Border(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(x, 3, 1, 1)


class MaxPoolSame(nn.Module):
    """A pooling that pads as TensorFlow does; its name says so, as timm's do."""

    kernel_size, stride = 3, 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.max_pool2d(functional.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)


Cases = list[tuple[nn.Module, bool]]
STANDS_FOR: dict[str, tuple[Callable, Cases]] = {
    "average_same": (
        lambda: L.AveragePooling2D(3, 1, "same"),
        [(nn.AvgPool2d(3, 1, 1), False), (nn.AvgPool2d(3, 1, 1, count_include_pad=False), True), (Border(), False)],
    ),
    "average_valid": (lambda: L.AveragePooling2D(2), [(nn.AvgPool2d(2), True)]),
    "average_same_without_border": (lambda: L.AveragePooling2D(2, 2, "same"), [(nn.AvgPool2d(2), True)]),
    "max_same": (lambda: L.MaxPooling2D(3, 1, "same"), [(nn.MaxPool2d(3, 1, 1), True)]),
    "max_same_uneven": (
        lambda: L.MaxPooling2D(3, 2, "same"), [(nn.MaxPool2d(3, 2, 1), False), (MaxPoolSame(), True)],
    ),
    "zeros_before_max": (
        lambda: keras.Sequential([L.ZeroPadding2D(1), L.MaxPooling2D(3, 2)]), [(nn.MaxPool2d(3, 2, 1), False)],
    ),
    "zeros_before_max_behind_relu": (
        lambda: keras.Sequential([L.ReLU(), L.ZeroPadding2D(1), L.MaxPooling2D(3, 2)]),
        [(nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1)), True)],
    ),
    "zero_padding": (lambda: L.ZeroPadding2D(1), [(nn.ZeroPad2d(1), True)]),
    "cropping": (lambda: L.Cropping2D(1), [(nn.ZeroPad2d(-1), True)]),
    "relu": (lambda: L.Activation("relu"), [(nn.ReLU(), True)]),
    "relu6": (lambda: L.ReLU(6.0), [(nn.ReLU6(), True)]),
    "relu_to_4": (lambda: L.ReLU(4.0), [(nn.ReLU(), False)]),
    "relu_from_half": (lambda: L.ReLU(threshold=0.5), [(nn.ReLU(), False)]),
    "relu_with_a_slope": (lambda: L.ReLU(negative_slope=0.2), [(nn.ReLU(), False), (nn.LeakyReLU(0.2), True)]),
    "leaky_relu": (L.LeakyReLU, [(nn.LeakyReLU(), False), (nn.LeakyReLU(0.3), True)]),
    "leaky_relu_as_torch_s": (lambda: L.LeakyReLU(0.01), [(nn.LeakyReLU(), True)]),
    "leaky_relu_by_name": (
        lambda: L.Activation("leaky_relu"), [(nn.LeakyReLU(), False), (nn.LeakyReLU(0.2), True)],
    ),
    "elu": (L.ELU, [(nn.ELU(), True), (nn.ELU(0.5), False)]),
    "elu_of_half": (lambda: L.ELU(0.5), [(nn.ELU(), False), (nn.ELU(0.5), True)]),
    "gelu": (lambda: L.Activation("gelu"), [(nn.GELU(), True), (nn.GELU("tanh"), False)]),
    "gelu_by_tanh": (lambda: keras.ops.gelu, [(nn.GELU(), False), (nn.GELU("tanh"), True)]),
    "hard_sigmoid": (lambda: L.Activation("hard_sigmoid"), [(nn.Hardsigmoid(), True)]),
    "hard_swish": (lambda: L.Activation("hard_swish"), [(nn.Hardswish(), True)]),
    "swish": (lambda: L.Activation("swish"), [(nn.SiLU(), True)]),
    "mish": (lambda: L.Activation("mish"), [(nn.Mish(), True)]),
    "softplus": (lambda: L.Activation("softplus"), [(nn.Softplus(), True)]),
    "selu": (lambda: L.Activation("selu"), [(nn.SELU(), True)]),
    "softmax": (L.Softmax, [(nn.Softmax(1), True)]),
    "up_sampling": (lambda: L.UpSampling2D(2), [(nn.Upsample(scale_factor=2), True)]),
    "up_sampling_bilinear": (
        lambda: L.UpSampling2D(2, interpolation="bilinear"), [(nn.Upsample(scale_factor=2, mode="bilinear"), True)],
    ),
    "up_sampling_bicubic": (
        lambda: L.UpSampling2D(2, interpolation="bicubic"), [(nn.Upsample(scale_factor=2, mode="nearest"), False)],
    ),
    "global_average": (
        lambda: L.GlobalAveragePooling2D(keepdims=True), [(nn.AdaptiveAvgPool2d(1), True)],
    ),
    "global_max": (lambda: L.GlobalMaxPooling2D(keepdims=True), [(nn.AdaptiveMaxPool2d(1), True)]),
    "dropout": (lambda: L.SpatialDropout2D(0.5), [(nn.Dropout2d(), True)]),
    "rescaling": (lambda: L.Rescaling(0.1), [(nn.Identity(), False)]),
    "lambda": (lambda: L.Lambda(lambda x: x * 2), [(nn.Identity(), False)]),
}  # fmt: skip


def pair(make: Callable, module: nn.Module, folder: Path):
    """A convolution with the layer behind it, in Keras and in torch, and the file."""
    entry = keras.Input((6, 6, 3))
    model = keras.Model(entry, make()(L.Conv2D(4, 1, name="0", kernel_initializer="random_normal")(entry)))
    path = folder / "model.keras"
    model.save(path)
    return model, nn.Sequential(nn.Conv2d(3, 4, 1), module).eval(), path


@pytest.mark.parametrize("case", STANDS_FOR)
def test_a_torch_layer_is_let_pass_exactly_where_it_computes_the_same(tmp_path: Path, case: str) -> None:
    """The case of the issue: equal shapes, and in the one pooling the border counts, in the other not."""
    make, modules = STANDS_FOR[case]
    for module, passes in modules:
        model, target, path = pair(make, module, tmp_path)
        x = torch.randn(16, 6, 6, 3, generator=torch.Generator().manual_seed(0)) * 60  # weights of 0.05 saturate
        expected = model(x, training=False).movedim(-1, 1)
        if passes:
            transfer(str(path), target)
        else:
            with pytest.raises(TransferError, match=r"donor\.keras\.accept=\[(averaging|padding|activation|layers)\]"):
                transfer(str(path), target)
            with torch.no_grad():
                kernel, bias = model.get_layer("0").get_weights()
                target[0].weight.copy_(torch.from_numpy(kernel).permute(3, 2, 0, 1))
                target[0].bias.copy_(torch.from_numpy(bias))
        with torch.no_grad():
            received = target(x.movedim(-1, 1))
        same = received.shape == expected.shape and torch.allclose(received, expected, atol=1e-4)
        assert same is passes


def test_a_function_that_no_module_shows_is_doubted(tmp_path: Path) -> None:
    """It may be the right one, which nobody can see; so it is asked for rather than believed."""
    _, target, path = pair(L.LeakyReLU, Leaky(), tmp_path)
    with pytest.raises(TransferError, match=r"leaky_re_lu\w*: a LeakyReLU of the slope 0\.3.*accept=\[activation\]"):
        transfer(str(path), target)


def test_habits_are_read_off_modules() -> None:
    modules = [
        nn.LeakyReLU(0.3),
        nn.LeakyReLU(),
        nn.AvgPool2d(3, 1, 1),
        nn.AvgPool2d(2),
        nn.GELU(),
        nn.Conv2d(1, 1, 3, 2, 1),
    ]
    assert habits_of(modules) == {
        Habit.leaky_slope: {"0.3", "0.01"},
        Habit.border: {"counted as zeros"},
        Habit.gelu: {"exact"},
        Habit.padding: {"alike on both sides"},
    }
