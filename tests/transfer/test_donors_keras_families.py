"""Whose weights a Keras file holds: known by whole blocks of layers with their windows, never by one name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from graft.transfer.donors.keras.cautions import findings_of
from graft.transfer.donors.keras.families import FAMILIES, family_of, numbered_from_zero
from graft.transfer.habits import FIRST, Habit
from tests.transfer.keras_configs import sequential

KERNELS: dict[str, list[tuple[str, int | None]]] = {
    "VGG": [("block1_conv1", 3), ("block2_conv1", 3), ("block5_conv3", 3)],
    "ResNet": [("conv2_block1_1_conv", 1), ("conv2_block1_2_conv", 3), ("conv2_block1_3_bn", None)],
    "ResNet of old": [("res2a_branch2a", 1), ("res2a_branch2b", 3), ("bn2a_branch2c", None)],
    "ResNetV2": [
        ("conv2_block1_1_conv", 1), ("conv2_block1_2_conv", 3), ("conv2_block1_preact_bn", None), ("post_bn", None),
    ],
    "DenseNet": [
        ("conv2_block1_1_conv", 1), ("conv2_block1_2_conv", 3), ("conv2_block1_0_bn", None), ("pool2_conv", 1),
    ],
    "MobileNet": [("conv_dw_1", 3), ("conv_pw_1", 1), ("conv_pw_1_bn", None)],
    "MobileNetV2": [("expanded_conv_depthwise", 3), ("block_1_expand", 1), ("Conv_1", 1)],
    "MobileNetV3": [("expanded_conv_depthwise", None), ("expanded_conv_1_expand", 1), ("conv_1", 1)],
    "EfficientNet": [("block1a_dwconv", None), ("block1a_se_reduce", 1), ("stem_conv", 3), ("top_conv", 1)],
    "EfficientNetV2": [("block1a_dwconv2", 3), ("block1a_se_expand", 1), ("stem_conv", 3), ("top_conv", 1)],
    "ConvNeXt": [("a_depthwise_conv", 7), ("a_pointwise_conv_1", None), ("a_layer_scale", None)],
    "Xception": [("block2_sepconv1", 3), ("block1_conv1", 3), ("block14_sepconv2_bn", None)],
    "InceptionResNetV2": [("block35_1_conv", 1), ("block17_1_conv", 1), ("block8_1_conv", 1), ("conv_7b", 1)],
    "NASNet": [("separable_conv_1_bn_a", None), ("adjust_conv_projection_a", 1), ("normal_conv_1_a", 1)],
}  # fmt: skip
"""The least of each family's layers, and their windows; InceptionV3's are counted."""
USUAL: dict[str, Any] = {
    "epsilon": 1e-3, "layer_epsilon": 1e-3, "pooled": True, "unscaled": False, "numbered": False, "cautions": set(),
}  # fmt: skip
OF_FAMILIES: dict[str, dict[str, Any]] = {
    "VGG": {"pooled": False, "cautions": {"bgr"}},
    "ResNet": {"epsilon": 1.001e-5, "cautions": {"strides", "bgr"}},
    "ResNet of old": {"cautions": {"strides", "bgr"}},
    "ResNetV2": {"epsilon": 1.001e-5},
    "DenseNet": {"epsilon": 1.001e-5},
    "MobileNet": {"cautions": {"padding"}},
    "MobileNetV2": {"cautions": {"padding"}},
    "MobileNetV3": {"cautions": {"padding"}},
    "EfficientNet": {"cautions": {"padding"}},
    "EfficientNetV2": {"cautions": {"padding"}},
    "ConvNeXt": {"layer_epsilon": 1e-6},
    "Xception": {"cautions": {"padding"}},
    "InceptionResNetV2": {"unscaled": True, "numbered": True, "cautions": {"averaging"}},
    "NASNet": {"cautions": {"padding", "averaging"}},
    "InceptionV3": {"unscaled": True, "numbered": True, "cautions": {"averaging"}},
}


def kernels(layers: Sequence[tuple[str, int | None]]) -> dict[str, tuple[int, ...]]:
    return {f"model.{name}": (side, side, 8, 8) if side else (8,) for name, side in layers}


@pytest.mark.parametrize("name", KERNELS)
def test_a_family_is_known_by_all_of_its_layers_and_their_windows(name: str) -> None:
    layers = KERNELS[name]
    family = family_of(kernels(layers))
    assert family is not None
    assert family.name == name.removesuffix(" of old")
    cautions = {caution.value for caution in family.cautions}
    told = {**{key: getattr(family, key) for key in USUAL}, "cautions": cautions}
    assert told == {**USUAL, **OF_FAMILIES[name]}
    for place, (layer, side) in enumerate(layers):
        assert family_of(kernels([*layers[:place], *layers[place + 1 :]])) is not family, layer
        if side:
            other = [*layers[:place], (layer, side + 2), *layers[place + 1 :]]
            assert family_of(kernels(other)) is not family, layer
            assert family_of({**kernels(layers), f"model.{layer}": (side, side, 8)}) is not family, layer


def test_inception_v3_is_known_by_the_count_of_its_windows() -> None:
    windows = {(1, 1): 40, (3, 3): 17, (5, 5): 3, (1, 7): 13, (7, 1): 13, (1, 3): 4, (3, 1): 4}
    shapes = [(*window, 8, 8) for window, count in windows.items() for _ in range(count)]
    layers = {f"conv2d_{place}" if place else "conv2d": shape for place, shape in enumerate(shapes)}
    layers["batch_normalization_7"] = (8,)
    family = family_of(layers)
    assert family is not None
    assert family.name == "InceptionV3"
    told = {**{key: getattr(family, key) for key in USUAL}, "cautions": {each.value for each in family.cautions}}
    assert told == {**USUAL, **OF_FAMILIES["InceptionV3"]}
    assert family_of({**layers, "conv2d_200": (1, 1, 8, 8)}) is None
    assert family_of({name: shape for name, shape in layers.items() if name.startswith("conv")}) is None
    assert {known.name for known in FAMILIES} == {name.removesuffix(" of old") for name in OF_FAMILIES}


FOREIGN: list[tuple[str, str, str | None]] = [
    ("VGG", "block14_sepconv2", None),
    ("ResNet", "conv2_block1_preact_bn", None),
    ("ResNet", "post_bn", None),
    ("DenseNet", "conv2_block1_3_conv", None),
]


@pytest.mark.parametrize(("family", "layer", "expected"), FOREIGN)
def test_a_layer_that_a_family_never_has_speaks_against_it(family: str, layer: str, expected: str | None) -> None:
    assert family_of(kernels([*KERNELS[family], (layer, 1)])) is expected


def test_a_file_of_weights_alone_has_its_family_s_differences() -> None:
    family = family_of(kernels(KERNELS["ResNet"]))
    told = [(each.caution.value, each.doubt().reason, each.doubt().needs) for each in findings_of(None, family)]
    strides = "Keras' ResNet strides in the first 1×1 convolution of a block, torchvision's in the 3×3"
    bgr = (
        "Keras' published ResNet was trained on blue, green, red from 0 to 255 with 103.939, 116.779, 123.68 taken "
        "off, not on red, green, blue divided by a standard deviation"
    )
    assert told == [("strides", strides, {Habit.bottleneck: {FIRST}}), ("bgr", bgr, None)]
    with_config = findings_of(sequential((9, 9), ("ReLU", "first", {})), family)
    assert [each.caution.value for each in with_config] == ["bgr"]
    assert findings_of(None, None) == []


def test_layers_that_are_mere_numbers_count_from_zero() -> None:
    names = ["conv2d_96", "conv2d_94", "batch_normalization_100", "m.conv2d_7", "m.conv2d", "predictions", "conv2d_95"]
    assert numbered_from_zero(names) == {
        "conv2d_94": "conv2d",
        "conv2d_95": "conv2d_1",
        "conv2d_96": "conv2d_2",
        "batch_normalization_100": "batch_normalization",
        "m.conv2d": "m.conv2d",
        "m.conv2d_7": "m.conv2d_1",
    }
    assert numbered_from_zero(["separable_conv2d_3", "depthwise_conv2d_4"]) == {
        "separable_conv2d_3": "separable_conv2d",
        "depthwise_conv2d_4": "depthwise_conv2d",
    }
