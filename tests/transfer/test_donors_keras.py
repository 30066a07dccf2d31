"""Keras donors: files written by real Keras, and the forward pass of the torch model that they fill."""

import json
import os
import re
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from graft.config.faults import InputError
from graft.config.schema import KerasConfig
from graft.transfer import Rules, Verdict, account_donor, target_of_module, transfer
from graft.transfer.donors import open_donor

os.environ["KERAS_BACKEND"] = "torch"
os.environ["KERAS_HOME"] = tempfile.mkdtemp(prefix="keras-home-")  # where it writes its settings when it is imported
import keras

L = keras.layers
# Keras' Variable.__array__ has no `copy` keyword yet, which NumPy 2 wants: keras-team/keras#21319.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
FILES = ("model.keras", "model.h5", "model.weights.h5")


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.utils.set_random_seed(0)
    torch.manual_seed(0)


def shaken(model):
    """The model with every weight random, statistics and biases too, so that no mistake can hide behind a zero."""
    generator = np.random.default_rng(0)
    model.set_weights(
        [
            generator.uniform(0.5, 1.5, w.shape) if w.ndim == 1 else generator.normal(0, 0.3, w.shape)
            for w in model.get_weights()
        ]
    )
    return model


def write(model, folder: Path, file: str) -> Path:
    path = folder / file
    model.save_weights(path) if file == "model.weights.h5" else model.save(path)
    return path


def put(path: Path, module: nn.Module, table: dict[str, str], **options) -> list[str]:
    """Fills a torch module from a Keras file by layer names; gives the remarks."""
    with open_donor(path, keras=KerasConfig(**options)) as donor:
        state = {}
        for name, info in donor.infos.items():
            layer, _, leaf = name.rpartition(".")
            value = donor.read(name)
            assert tuple(value.shape) == info.shape
            assert str(value.dtype) == f"torch.{info.dtype}"
            assert value.is_contiguous()
            state[f"{table[layer]}.{leaf}"] = value
        counters = {name for name in module.state_dict() if name.endswith("num_batches_tracked")}
        assert set(state) == set(module.state_dict()) - counters
        module.load_state_dict(state | {name: torch.tensor(0) for name in counters}, strict=True)
        for name, info in donor.infos.items():
            layer, _, leaf = name.rpartition(".")
            if info.epsilon is not None:
                module.get_submodule(table[layer]).eps = info.epsilon
        return donor.remarks


def weighed(path: Path, module: nn.Module | None = None, **options) -> list[str]:
    """The remarks of a transfer that leaves every tensor out, so that the donor's doubts alone may stand against it."""
    rules = Rules(ignore=["*"], skip=["*"] if module is not None else [], without_donor=True)
    with open_donor(path, keras=KerasConfig(**options)) as donor:
        return account_donor(donor, target_of_module(module or nn.Module()), rules).remarks


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


@torch.no_grad()
def assert_same_function(model, module: nn.Module, x: np.ndarray, tolerance: float = 1e-4) -> None:
    expected = np.asarray(model(torch.from_numpy(x), training=False).detach())
    received = module.eval()(channels_first(x))
    if expected.ndim > 2:
        received = received.movedim(1, -1)
    assert expected.shape == tuple(received.shape)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(received.numpy(), expected, atol=tolerance * max(1, np.abs(expected).max()))


# -- the three formats


def small_keras(**norm):
    return shaken(
        keras.Sequential(
            [
                keras.Input((8, 6, 3)),
                L.Conv2D(4, 3, padding="same", name="c1"),
                L.BatchNormalization(name="bn", **norm),
                L.ReLU(),
                L.MaxPooling2D(2),
                L.Conv2D(5, (1, 3), use_bias=False, name="c2"),
                L.Flatten(),
                L.Dropout(0.5),
                L.Dense(7, activation="relu", name="fc1"),
                L.Dense(3, name="fc2"),
            ],
            name="small",
        )
    )


def small_torch(eps: float = 1e-3) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            c1=nn.Conv2d(3, 4, 3, padding=1),
            bn=nn.BatchNorm2d(4, eps=eps),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            c2=nn.Conv2d(4, 5, (1, 3), bias=False),
            flatten=nn.Flatten(),
            fc1=nn.Linear(20, 7),
            relu2=nn.ReLU(),
            fc2=nn.Linear(7, 3),
        )
    )


SAME = {name: name for name in ("c1", "bn", "c2", "fc1", "fc2")}


@pytest.mark.parametrize("file", FILES)
def test_conv_bn_dense_in_every_file_format(tmp_path: Path, file: str) -> None:
    model, module = small_keras(), small_torch()
    told = {"flatten": {"fc1": 5}} if file == "model.weights.h5" else {}
    remarks = put(write(model, tmp_path, file), module, SAME, **told)
    assert_same_function(model, module, images(2, 8, 6, 3))
    assert any("rows H, W, C behind a Flatten" in remark for remark in remarks)


def test_the_order_of_a_flattened_map_matters(tmp_path: Path) -> None:
    """The trap: the transposed dense kernel alone has the right shape and another function."""
    model, module = small_keras(), small_torch()
    put(write(model, tmp_path, "model.keras"), module, SAME)
    with torch.no_grad():
        module.fc1.weight.copy_(torch.from_numpy(model.get_layer("fc1").get_weights()[0].T.copy()))
    with pytest.raises(AssertionError, match="Not equal"):
        assert_same_function(model, module, images(2, 8, 6, 3))


def test_donor_facts(tmp_path: Path) -> None:
    path = write(small_keras(), tmp_path, "model.keras")
    donor = open_donor(path)
    assert donor.format == "keras"
    assert list(donor.infos)[:3] == ["c1.weight", "c1.bias", "bn.weight"]
    assert donor.infos["c1.weight"].shape == (4, 3, 3, 3)
    assert donor.infos["bn.running_var"].epsilon == 1e-3
    assert donor.infos["bn.running_mean"].epsilon is None
    assert len(str(donor.sha256)) == 64


@pytest.mark.parametrize("file", FILES)
def test_weights_without_config_ask_whether_a_dense_stands_behind_a_flatten(tmp_path: Path, file: str) -> None:
    path = write(small_keras(), tmp_path, file)
    if file == "model.h5":
        with h5py.File(path, "a") as opened:
            del opened.attrs["model_config"]
    if file == "model.keras":
        return
    with pytest.raises(InputError, match=r"fc1: its 20 features may come from a Flatten.*flatten=\{fc1: CHANNELS\}"):
        weighed(path)
    told = open_donor(path, keras=KerasConfig(flatten={"fc1": 5}))
    assert any("0.001 taken as the epsilon of 1 batch-norms" in remark for remark in told.remarks)
    assert open_donor(path, keras=KerasConfig(flatten={"fc1": 5}, epsilon=1e-5)).infos["bn.running_var"].epsilon == 1e-5
    pooled = open_donor(path, keras=KerasConfig(flatten={"fc1": 0}))
    assert not torch.equal(pooled.read("fc1.weight"), told.read("fc1.weight"))


@pytest.mark.parametrize("missing", ["scale", "center"])
@pytest.mark.parametrize("file", FILES)
def test_batch_norm_without_scale_or_center(tmp_path: Path, file: str, missing: str) -> None:
    model, module = small_keras(**{missing: False}), small_torch()
    variable = {"scale": "gamma", "center": "beta"}[missing]
    told = {"flatten": {"fc1": 5}, "absent": {"bn": variable}} if file == "model.weights.h5" else {}
    remarks = put(write(model, tmp_path, file), module, SAME, **told)
    assert_same_function(model, module, images(2, 8, 6, 3))
    assert any(f"the Keras layer has no {variable}" in remark for remark in remarks)


def test_a_norm_of_three_variables_without_config_is_asked_for(tmp_path: Path) -> None:
    path = write(small_keras(scale=False), tmp_path, "model.weights.h5")
    with pytest.raises(InputError, match="bn: batch_normalization with gamma, beta, moving_mean"):
        weighed(path, flatten={"fc1": 5})


def test_batch_norm_epsilon_is_reported(tmp_path: Path) -> None:
    model, module = small_keras(epsilon=0.05), small_torch()
    put(write(model, tmp_path, "model.keras"), module, SAME)
    assert module.bn.eps == 0.05
    assert_same_function(model, module, images(2, 8, 6, 3))


# -- every kind of layer

KINDS: dict[str, tuple[Callable, Callable, tuple[int, ...]]] = {
    "conv2d": (lambda: L.Conv2D(4, (3, 2), name="l"), lambda: nn.Conv2d(6, 4, (3, 2)), (7, 5, 6)),
    "conv2d_groups": (lambda: L.Conv2D(4, 3, groups=2, name="l"), lambda: nn.Conv2d(6, 4, 3, groups=2), (7, 5, 6)),
    "conv2d_no_bias": (
        lambda: L.Conv2D(4, 3, use_bias=False, name="l"),
        lambda: nn.Conv2d(6, 4, 3, bias=False),
        (7, 5, 6),
    ),
    "conv2d_dilated": (
        lambda: L.Conv2D(4, 3, dilation_rate=2, name="l"),
        lambda: nn.Conv2d(6, 4, 3, dilation=2),
        (9, 7, 6),
    ),
    "conv1d": (lambda: L.Conv1D(4, 3, name="l"), lambda: nn.Conv1d(6, 4, 3), (9, 6)),
    "conv3d": (lambda: L.Conv3D(4, (3, 2, 1), name="l"), lambda: nn.Conv3d(2, 4, (3, 2, 1)), (5, 4, 3, 2)),
    "transpose": (
        lambda: L.Conv2DTranspose(4, (3, 2), strides=2, name="l"),
        lambda: nn.ConvTranspose2d(6, 4, (3, 2), stride=2),
        (4, 3, 6),
    ),
    "transpose_same": (
        lambda: L.Conv2DTranspose(4, 4, strides=2, padding="same", name="l"),
        lambda: nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1),
        (4, 3, 6),
    ),
    "depthwise": (lambda: L.DepthwiseConv2D(3, name="l"), lambda: nn.Conv2d(6, 6, 3, groups=6), (7, 5, 6)),
    "depthwise_multiplied": (
        lambda: L.DepthwiseConv2D((2, 3), depth_multiplier=3, name="l"),
        lambda: nn.Conv2d(6, 18, (2, 3), groups=6),
        (7, 5, 6),
    ),
    "depthwise_no_bias": (
        lambda: L.DepthwiseConv2D(3, use_bias=False, name="l"),
        lambda: nn.Conv2d(6, 6, 3, groups=6, bias=False),
        (7, 5, 6),
    ),
    "separable": (
        lambda: L.SeparableConv2D(5, 3, depth_multiplier=2, name="l"),
        lambda: nn.Sequential(
            OrderedDict(depthwise=nn.Conv2d(6, 12, 3, groups=6, bias=False), pointwise=nn.Conv2d(12, 5, 1))
        ),
        (7, 5, 6),
    ),
    "dense": (lambda: L.Dense(4, name="l"), lambda: nn.Linear(6, 4), (6,)),
    "layer_norm": (lambda: L.LayerNormalization(name="l"), lambda: nn.LayerNorm(6), (6,)),
    "layer_norm_no_scale": (lambda: L.LayerNormalization(scale=False, name="l"), lambda: nn.LayerNorm(6), (6,)),
    "batch_norm": (lambda: L.BatchNormalization(name="l"), lambda: nn.BatchNorm2d(6), (4, 3, 6)),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer(tmp_path: Path, kind: str, file: str) -> None:
    in_keras, in_torch, shape = KINDS[kind]
    model = shaken(keras.Sequential([keras.Input(shape), in_keras()]))
    module = nn.Sequential(OrderedDict(l=in_torch()))
    table = {"l": "l", "l.depthwise": "l.depthwise", "l.pointwise": "l.pointwise"}
    told = {"absent": {"l": "gamma"}} if kind == "layer_norm_no_scale" and file == "model.weights.h5" else {}
    put(write(model, tmp_path, file), module, table, **told)
    assert_same_function(model, module, images(2, *shape))


@pytest.mark.parametrize("file", FILES)
def test_embedding(tmp_path: Path, file: str) -> None:
    model = shaken(keras.Sequential([keras.Input((3,), dtype="int32"), L.Embedding(7, 4, name="l")]))
    module = nn.Sequential(OrderedDict(l=nn.Embedding(7, 4)))
    put(write(model, tmp_path, file), module, {"l": "l"})
    tokens = np.array([[0, 6, 2]], dtype="int32")
    expected = np.asarray(model(torch.from_numpy(tokens)).detach())
    np.testing.assert_allclose(module(torch.from_numpy(tokens)).detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("file", FILES)
def test_a_norm_between_flatten_and_dense_follows_the_order_too(tmp_path: Path, file: str) -> None:
    model = shaken(
        keras.Sequential(
            [
                keras.Input((4, 3, 2)),
                L.Conv2D(5, 1, name="c1"),
                L.Flatten(),
                L.BatchNormalization(name="bn"),
                L.Dense(3, name="fc"),
            ]
        )
    )
    module = nn.Sequential(
        OrderedDict(c1=nn.Conv2d(2, 5, 1), flatten=nn.Flatten(), bn=nn.BatchNorm1d(60), fc=nn.Linear(60, 3))
    )
    told = {"flatten": {"fc": 5, "bn": 5}} if file == "model.weights.h5" else {}
    put(write(model, tmp_path, file), module, {name: name for name in ("c1", "bn", "fc")}, **told)
    assert_same_function(model, module, images(2, 4, 3, 2))


def test_a_flatten_in_the_weights_layout_is_not_overlooked_by_the_norm(tmp_path: Path) -> None:
    model = shaken(
        keras.Sequential(
            [keras.Input((4, 3, 2)), L.Conv2D(5, 1, name="c1"), L.Flatten(), L.BatchNormalization(name="bn")]
        )
    )
    path = write(model, tmp_path, "model.weights.h5")
    with pytest.raises(InputError, match=r"bn: its 60 features may come from a Flatten"):
        weighed(path)


@pytest.mark.parametrize("file", FILES)
def test_nested_and_functional_models(tmp_path: Path, file: str) -> None:
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), L.Conv2D(4, 3, name="conv"), L.BatchNormalization(name="bn")], name="trunk"
    )
    entry = keras.Input((8, 8, 3), name="entry")
    x = inner(entry)
    a, b = L.Conv2D(4, 1, name="a")(x), L.Conv2D(2, 1, name="b")(x)
    x = L.Concatenate()([L.Add()([x, a]), b])
    x = L.Flatten()(x)
    model = shaken(keras.Model(entry, L.Dense(3, name="fc")(L.Activation("relu")(x))))

    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4)))
            self.a, self.b, self.fc = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1), nn.Linear(216, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.trunk(x)
            return self.fc(torch.cat([x + self.a(x), self.b(x)], 1).flatten(1).relu())

    module = Twin()
    told = {"flatten": {"fc": 6}} if file == "model.weights.h5" else {}
    names = ("trunk.conv", "trunk.bn", "a", "b", "fc")
    put(write(model, tmp_path, file), module, {name: name for name in names}, **told)
    assert_same_function(model, module, images(2, 8, 8, 3))


def test_mobilenet_style_depthwise_blocks(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((16, 16, 3)), L.Conv2D(4, 3, strides=2, use_bias=False, name="stem")])
    module = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 4, 3, 2, bias=False)))
    for block, (before, after) in enumerate([(4, 6), (6, 8)]):
        model.add(L.BatchNormalization(epsilon=1e-2, name=f"bn{block}"))
        model.add(L.ReLU(max_value=6.0))
        model.add(L.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"dw{block}"))
        model.add(L.Conv2D(after, 1, use_bias=False, name=f"pw{block}"))
        module.add_module(f"bn{block}", nn.BatchNorm2d(before))
        module.add_module(f"relu{block}", nn.ReLU6())
        module.add_module(f"dw{block}", nn.Conv2d(before, before, 3, padding=1, groups=before, bias=False))
        module.add_module(f"pw{block}", nn.Conv2d(before, after, 1, bias=False))
    model.add(L.GlobalAveragePooling2D())
    model.add(L.Reshape((1, 1, 8)))
    model.add(L.Conv2D(3, 1, name="classifier"))
    module.add_module("pool", nn.AdaptiveAvgPool2d(1))
    module.add_module("classifier", nn.Conv2d(8, 3, 1))
    shaken(model)
    names = ["stem", *(f"{part}{block}" for block in range(2) for part in ("bn", "dw", "pw")), "classifier"]
    put(write(model, tmp_path, "model.keras"), module, {name: name for name in names})
    assert_same_function(model, module, images(2, 16, 16, 3))


# -- VGG16


def vgg_pair(widths: list[int], hidden: int, size: int, classes: int):
    """Keras' VGG16 and torchvision's at any width, with the table between their layers' names."""
    repeats = (2, 2, 3, 3, 3)
    model = keras.Sequential([keras.Input((size, size, 3))], name="vgg16")
    features: list[nn.Module] = []
    table: dict[str, str] = {}
    channels = 3
    for block, (width, count) in enumerate(zip(widths, repeats, strict=True), start=1):
        for number in range(1, count + 1):
            name = f"block{block}_conv{number}"
            model.add(L.Conv2D(width, 3, padding="same", activation="relu", name=name))
            table[name] = f"features.{len(features)}"
            features += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        model.add(L.MaxPooling2D(2, name=f"block{block}_pool"))
        features.append(nn.MaxPool2d(2))
    model.add(L.Flatten(name="flatten"))
    for name, units in (("fc1", hidden), ("fc2", hidden), ("predictions", classes)):
        model.add(L.Dense(units, activation="relu" if units == hidden else None, name=name))
    shaken(model)
    side = size // 32
    module = nn.Sequential(
        OrderedDict(
            features=nn.Sequential(*features),
            flatten=nn.Flatten(),
            classifier=nn.Sequential(
                nn.Linear(channels * side**2, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(),
                nn.Dropout(), nn.Linear(hidden, classes),
            ),
        )
    )  # fmt: skip
    table |= {"fc1": "classifier.0", "fc2": "classifier.3", "predictions": "classifier.6"}
    return model, module, table


@pytest.mark.parametrize("file", FILES)
def test_a_small_vgg16_with_its_flatten_order(tmp_path: Path, file: str) -> None:
    model, module, table = vgg_pair([4, 4, 6, 6, 8], hidden=16, size=64, classes=5)
    put(write(model, tmp_path, file), module, table, accept=["bgr"])
    assert_same_function(model, module, images(2, 64, 64, 3))


@pytest.mark.slow
def test_vgg16_into_torchvision_s(tmp_path: Path) -> None:
    import torchvision

    model, _, table = vgg_pair([64, 128, 256, 512, 512], hidden=4096, size=224, classes=1000)
    module = torchvision.models.vgg16()
    put(write(model, tmp_path, "model.h5"), module, table, accept=["bgr"])
    assert_same_function(model, module, images(1, 224, 224, 3) * 20)


def test_bgr_is_refused_turned_or_accepted(tmp_path: Path) -> None:
    model, module, table = vgg_pair([4, 4, 6, 6, 8], hidden=16, size=32, classes=5)
    path = write(model, tmp_path, "model.keras")
    with pytest.raises(InputError, match=r"blue, green, red.*donor\.keras\.input=bgr.*donor\.keras\.accept=\[bgr\]"):
        weighed(path)
    assert any(remark.startswith("accepted (bgr): ") for remark in weighed(path, accept=["bgr"]))
    remarks = put(path, module, table, input="bgr")
    assert any("mean=[0.48501961, 0.45795686, 0.40760392]" in remark for remark in remarks)
    raw = np.random.default_rng(2).uniform(0, 255, (2, 32, 32, 3)).astype("float32")  # red, green, blue
    as_keras = raw[..., ::-1] - np.array([103.939, 116.779, 123.68], dtype="float32")
    mean, std = np.array([0.48501961, 0.45795686, 0.40760392]), 0.00392157
    as_torch = ((raw / 255 - mean) / std).astype("float32")
    with torch.no_grad():
        expected = np.asarray(model(torch.from_numpy(as_keras.copy()), training=False).detach())
        received = module.eval()(channels_first(as_torch)).numpy()
    np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


# -- hidden differences


def strided(padding: str, size: int | None, kernel: int = 3, pad: object = None):
    layers = [keras.Input((size, size, 3))]
    layers += [L.ZeroPadding2D(pad, name="pad")] if pad is not None else []
    return keras.Sequential([*layers, L.Conv2D(4, kernel, strides=2, padding=padding, name="c1")])


@pytest.mark.parametrize(
    ("model", "uneven"),
    [
        (lambda: strided("same", 8), True),
        (lambda: strided("same", 9), False),
        (lambda: strided("same", None), True),
        (lambda: strided("same", 8, kernel=1), False),
        (lambda: strided("same", 8, kernel=2), False),
        (lambda: strided("valid", 8), False),
        (lambda: strided("valid", 8, pad=((0, 1), (0, 1))), True),
        (lambda: strided("valid", 8, pad=1), False),
    ],
)
def test_uneven_padding_is_refused_unless_accepted(tmp_path: Path, model: Callable, uneven: bool) -> None:
    path = write(model(), tmp_path, "model.keras")
    if not uneven:
        assert weighed(path) == []
        return
    with pytest.raises(InputError, match=r"(c1|pad): pads one side more.*donor\.keras\.accept=\[padding\]"):
        weighed(path)
    remarks = weighed(path, accept=["padding"])
    assert any(remark.startswith("accepted (padding): ") for remark in remarks)


def test_what_is_refused_does_compute_something_else(tmp_path: Path) -> None:
    model = shaken(strided("same", 8))
    module = nn.Sequential(OrderedDict(c1=nn.Conv2d(3, 4, 3, stride=2, padding=1)))
    put(write(model, tmp_path, "model.keras"), module, {"c1": "c1"}, accept=["padding"])
    with pytest.raises(AssertionError, match="Not equal"):
        assert_same_function(model, module, images(1, 8, 8, 3))


def chain(*names: str):
    """Layers one behind the other, named and built as ResNet and DenseNet are."""
    model = keras.Sequential([keras.Input((16, 16, 3))])
    for name in names:
        if name.endswith("bn"):
            model.add(L.BatchNormalization(name=name, epsilon=1.001e-5))
        else:
            stride = 2 if name.endswith("block1_1_conv") and "_3_conv" in "".join(names) else 1
            side = 3 if name.endswith("_2_conv") else 1
            model.add(L.Conv2D(3, side, strides=stride, padding="same", name=name))
    return shaken(model)


BLOCK = ("1_conv", "1_bn", "2_conv", "2_bn", "3_conv", "3_bn")
RESNET = ("conv1_conv", "conv1_bn", *(f"conv3_block1_{part}" for part in BLOCK))


@pytest.mark.parametrize("file", FILES)
def test_keras_resnet_is_refused_for_its_strides_and_colours(tmp_path: Path, file: str) -> None:
    path = write(chain(*RESNET), tmp_path, file)
    with pytest.raises(InputError, match="strides in the first 1×1 convolution") as caught:
        weighed(path)
    assert "blue, green, red" in str(caught.value)
    with open_donor(path, keras=KerasConfig(accept=["strides", "bgr"])) as donor:
        assert donor.infos["conv1_bn.running_var"].epsilon == 1.001e-5
    assert len([remark for remark in weighed(path, accept=["strides", "bgr"]) if remark.startswith("accepted")]) == 2


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "names",
    [
        (
            "conv1_conv",
            "conv1_bn",
            *(f"conv3_block1_{part}" for part in ("0_bn", "1_conv", "1_bn", "2_conv")),
            "pool3_conv",
        ),
        ("conv3_block1_preact_bn", *(f"conv3_block1_{part}" for part in BLOCK[:-1]), "post_bn"),
    ],
    ids=["densenet", "resnet_v2"],
)
def test_networks_with_resnet_s_names_and_other_blocks_are_none(
    tmp_path: Path, file: str, names: tuple[str, ...]
) -> None:
    """A family is known by whole blocks: one name in common says nothing of strides or colours."""
    model = chain(*names)
    path = write(model, tmp_path, file)
    if "preact" in names[0] and file != "model.weights.h5":
        with pytest.raises(
            InputError, match="strides in the first 1×1"
        ) as caught:  # which this one does, by its config
            weighed(path)
        assert "blue" not in str(caught.value)
    else:
        assert not any("blue" in remark for remark in weighed(path))
    with open_donor(path) as donor:  # the epsilon of the family, where the file does not say it
        assert {info.epsilon for info in donor.infos.values()} == {None, 1.001e-5}


@pytest.mark.parametrize("stride", [1, 2])
def test_a_config_says_where_a_bottleneck_strides_whatever_its_names(tmp_path: Path, stride: int) -> None:
    layers = [L.Conv2D(4, 1, strides=stride, name="a"), L.BatchNormalization(), L.ReLU(), L.Conv2D(4, 3, name="b")]
    path = write(keras.Sequential([keras.Input((8, 8, 3)), *layers]), tmp_path, "model.keras")
    if stride == 1:
        assert weighed(path) == []
        return
    with pytest.raises(InputError, match=r"received a: strides in the first 1×1 convolution"):
        weighed(path)

    class Bottleneck(nn.Module):
        def __init__(self, first: int) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1, stride=first), nn.Conv2d(4, 4, 3, stride=2 // first)

    assert weighed(path, Bottleneck(2)) == []
    with pytest.raises(InputError, match=r"received a: strides in the first"):
        weighed(path, Bottleneck(1))


@pytest.mark.parametrize("file", FILES)
def test_a_bias_in_front_of_a_batch_norm_folds(tmp_path: Path, file: str) -> None:
    model = chain("conv1_conv", "conv1_bn")
    module = nn.Sequential(OrderedDict(conv1_conv=nn.Conv2d(3, 3, 1, bias=False), conv1_bn=nn.BatchNorm2d(3)))
    told = {"epsilon": 1.001e-5} if file == "model.weights.h5" else {}
    path = write(model, tmp_path, file)
    remarks = put(path, module, {"conv1_conv": "conv1_conv", "conv1_bn": "conv1_bn"}, fold_bias=True, **told)
    assert "conv1_bn.running_mean: running_mean − conv1_conv.bias, which is left out (exact)" in remarks
    assert_same_function(model, module, images(1, 16, 16, 3))


# -- options and odd files


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers": {"^c.*": "conv2d"}}, r"received '\^c\.\*'; try: c\* \(a glob"),
        ({"layers": {"c9": "conv2d"}}, r"donor\.keras\.layers to name a layer with weights, received 'c9'; try: c2"),
        ({"layers": {"c1": "conv2"}}, r"donor\.keras\.layers among .*received 'conv2'; try: conv2d"),
        (
            {"accept": ["pading"]},
            r"donor\.keras\.accept among padding, strides, bgr, .*received 'pading'; try: padding",
        ),
        ({"input": "bgrr"}, r"donor\.keras\.input among rgb, bgr"),
        ({"absent": {"bn": "delta"}}, r"donor\.keras\.absent among gamma, beta"),
        ({"layers": {"fc1": "conv2d"}}, r"fc1: conv2d needs a kernel with 4 axes"),
        ({"flatten": {"fc1": 3}}, r"fc1: dense with 20 features behind a Flatten of 3 channels"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict, said: str) -> None:
    path = write(small_keras(), tmp_path, "model.keras")
    with pytest.raises(InputError, match=said):
        weighed(path, **options)


def test_keras_options_with_another_format_are_an_error(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"received donor\.keras with a file in the format torch"):
        open_donor(tmp_path / "a.pt", keras=KerasConfig(fold_bias=True))


def test_an_acceptance_of_nothing_is_said(tmp_path: Path) -> None:
    remarks = open_donor(write(small_keras(), tmp_path, "model.keras"), keras=KerasConfig(accept=["strides"])).remarks
    assert "donor.keras.accept: strides had nothing to accept" in remarks


def test_classes_without_a_counterpart_stay_as_keras_has_them(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4, 3)), L.LSTM(2, name="lstm"), L.Dense(2, name="fc")])
    donor = open_donor(write(model, tmp_path, "model.keras"))
    assert any("left as Keras has them: lstm" in remark for remark in donor.remarks)
    assert "fc.weight" in donor.infos
    assert not any(name.startswith("lstm") and name.endswith(("weight", "bias")) for name in donor.infos)


def test_a_lambda_in_the_config_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "code_ran"
    model = keras.Sequential([keras.Input((4,)), L.Dense(2, name="fc")])
    path = write(model, tmp_path, "model.h5")
    with h5py.File(path, "a") as opened:
        config = json.loads(opened.attrs["model_config"])
        code = f"__import__('os').mkdir({str(mark)!r})"
        config["config"]["layers"].append(
            {"class_name": "Lambda", "config": {"name": "x", "function": [code, None, None]}}
        )
        opened.attrs["model_config"] = json.dumps(config)
    assert open_donor(path).read("fc.weight").shape == (2, 4)
    assert not mark.exists()


def test_optimizer_state_is_left_out_and_said(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), L.Dense(2, name="fc"), L.Dropout(0.5)])
    model.compile("adam", "mse")
    model.fit(np.zeros((2, 4)), np.zeros((2, 2)), verbose=0)
    donor = open_donor(write(model, tmp_path, "model.keras"))
    assert set(donor.infos) == {"fc.weight", "fc.bias"}
    assert any(re.match(r"left out: \d+ datasets that are no weights", remark) for remark in donor.remarks)


def test_layers_are_found_where_the_file_does_not_name_them(tmp_path: Path) -> None:
    """Earlier Keras 3 wrote no names beside the variables, so class and number must do."""
    import zipfile

    model = shaken(
        keras.Sequential([keras.Input((6,)), L.Dense(5, name="x"), L.Dense(4, name="a"), L.Dense(3, name="m")])
    )
    old = write(model, tmp_path, "model.keras")
    with zipfile.ZipFile(old) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (tmp_path / "w.h5").write_bytes(parts["model.weights.h5"])
    with h5py.File(tmp_path / "w.h5", "a") as opened:
        opened.visititems(lambda _, node: node.attrs.pop("name", None) and None)
    parts["model.weights.h5"] = (tmp_path / "w.h5").read_bytes()
    with zipfile.ZipFile(tmp_path / "new.keras", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with open_donor(old) as expected, open_donor(tmp_path / "new.keras") as received:
        assert list(received.infos) == list(expected.infos)
        assert all(torch.equal(received.read(name), expected.read(name)) for name in expected.infos)


def test_layers_told_by_shapes_alone(tmp_path: Path) -> None:
    """A file whose paths say nothing of classes, as a subclassed model writes it."""
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        for name, shapes in {"conv": [(3, 3, 2, 4), (4,)], "norm": [(4,)] * 4, "out": [(4, 5), (5,)]}.items():
            for number, shape in enumerate(shapes):
                file[f"{name}/vars/{number}"] = np.zeros(shape, "float32")
    with open_donor(tmp_path / "a.weights.h5", keras=KerasConfig(flatten={"out": 0})) as donor:
        assert donor.infos["conv.weight"].shape == (4, 2, 3, 3)
        assert "classes told by shapes alone: conv conv2d, norm batch_normalization, out dense" in donor.remarks
    with h5py.File(tmp_path / "a.weights.h5", "a") as file:
        file["two/vars/0"] = file["two/vars/1"] = np.zeros(4, "float32")
    with pytest.raises(InputError, match=r"two: .*could be several classes; set donor\.keras\.layers=\{two: CLASS\}"):
        weighed(tmp_path / "a.weights.h5", flatten={"out": 0})
    told = KerasConfig(flatten={"out": 0}, layers={"two": "layer_normalization"})
    assert open_donor(tmp_path / "a.weights.h5", keras=told).infos["two.weight"].epsilon == 1e-3


def hdf5(path: Path, fill: Callable) -> Path:
    with h5py.File(path, "w") as file:
        fill(file)
    return path


def test_hdf5_that_reaches_outside_or_swells_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.h5").write_bytes(
        hdf5(tmp_path / "s.h5", lambda f: f.create_dataset("x", data=[1.0])).read_bytes()
    )

    def outside(file) -> None:
        file["l/vars/0"] = h5py.ExternalLink("secret.h5", "/x")

    def soft(file) -> None:
        file["l/vars/0"] = h5py.SoftLink("/elsewhere")

    def virtual(file) -> None:
        layout = h5py.VirtualLayout(shape=(1,), dtype="f4")
        layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "x", shape=(1,))
        file.create_virtual_dataset("l/vars/0", layout)

    def external(file) -> None:
        file.create_dataset("l/vars/0", (4,), "f4", external=[(str(tmp_path / "secret.h5"), 0, 16)])

    def bomb(file) -> None:
        file.create_dataset("l/vars/0", (10**6, 10**4), "f4", chunks=(1000, 1000), compression="gzip")

    def cycle(file) -> None:
        file.create_group("l/vars")
        file["l/vars/up"] = file["l"]

    def other(file) -> None:
        file["x"] = [1.0]

    for fill, said in (
        (outside, "to another place"),
        (soft, "to another place"),
        (virtual, "values in other files"),
        (external, "values in other files"),
        (bomb, "datasets that unpack to 40000000000 bytes"),
        (cycle, "a link back to a group"),
        (other, "that Keras did not write"),
    ):
        with pytest.raises(InputError, match=said):
            open_donor(hdf5(tmp_path / f"{fill.__name__}.h5", fill))


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(small_keras(), tmp_path, "model.h5")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(InputError, match=re.escape("pip install 'graft-transfer[keras]'")):
        open_donor(path)


# -- through the whole transfer


def test_another_epsilon_is_folded_into_the_variance(tmp_path: Path) -> None:
    model, module = small_keras(epsilon=0.05), small_torch(eps=1e-5)
    ledger = transfer(str(write(model, tmp_path, "model.keras")), module)
    entry = ledger.by_target["bn.running_var"]
    assert entry.verdict is Verdict.adapted
    assert entry.rule == "epsilon_fold: var' = var + 0.05 − 1e-05"
    assert {each.verdict for name, each in ledger.by_target.items() if name != "bn.running_var"} == {
        Verdict.copied,
        Verdict.initialized,  # the counter of batches
    }
    assert module.bn.eps == 1e-5
    assert_same_function(model, module, images(2, 8, 6, 3))


def test_an_equal_epsilon_is_left_alone(tmp_path: Path) -> None:
    model, module = small_keras(epsilon=1e-5), small_torch(eps=1e-5)
    ledger = transfer(str(write(model, tmp_path, "model.keras")), module)
    assert ledger.by_target["bn.running_var"].verdict is Verdict.copied
    assert_same_function(model, module, images(2, 8, 6, 3))


def test_a_layer_norm_s_other_epsilon_is_remarked(tmp_path: Path) -> None:
    model = shaken(keras.Sequential([keras.Input((6,)), L.LayerNormalization(name="l")]))
    ledger = transfer(str(write(model, tmp_path, "model.keras")), nn.Sequential(OrderedDict(l=nn.LayerNorm(6))))
    said = "l.weight: eps is 0.001 in the donor, 1e-05 in the target, so the norms compute something else"
    assert f"{said}; try the donor's eps" in ledger.remarks


def test_an_accepted_difference_stays_in_the_ledger(tmp_path: Path) -> None:
    path = write(shaken(strided("same", 8)), tmp_path, "model.keras")
    module = nn.Sequential(OrderedDict(c1=nn.Conv2d(3, 4, 3, stride=2, padding=1)))
    with open_donor(path, keras=KerasConfig(accept=["padding"])) as donor:
        ledger = transfer(donor, module)
    assert any(remark.startswith("accepted (padding): c1: pads one side more") for remark in ledger.remarks)
