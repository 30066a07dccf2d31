"""Where a Keras model's weights fit a torch model's shapes and compute something else: what is found and named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from graft.transfer.donors.keras.cautions import findings_of
from graft.transfer.habits import Habit
from tests.transfer.keras_configs import sequential

UNEVEN = (
    "pads one side more than the other, as TensorFlow's 'same' does at a stride; torch's padding is even, which shifts "
    "the map"
)
STRIDES = "strides in the first 1×1 convolution of a block, torchvision's in the 3×3"
BORDER = "averages what is there and leaves the border out; torch's average pooling counts it as zeros"
ZEROS = "pads with zeros in front of a maximum, which torch's pooling does with −∞"
NOT_TORCHS = ", which torch's is not by itself"
ALWAYS = ("ReLU", "first", {})
FIRST_CONV = ("Conv2D", "a", {"kernel_size": 1, "strides": 2})
SECOND_CONV = ("Conv2D", "b", {"kernel_size": 3, "strides": 1})


def conv(**config: Any) -> tuple[str, str, Mapping[str, Any]]:
    return ("Conv2D", "it", {"kernel_size": 3, "strides": 2, "padding": "same", **config})


def activation(name: str, **config: Any) -> tuple[str, str, Mapping[str, Any]]:
    return (name, "it", config)


DIFFERENCES: list[tuple[tuple[int | None, ...], list[tuple[str, str, Mapping[str, Any]]], list[tuple[str, str]]]] = [
    ((8, 8), [conv()], [("padding", f"it: {UNEVEN}")]),
    ((9, 9), [conv()], []),
    ((9, 8), [conv()], [("padding", f"it: {UNEVEN}")]),
    ((None, None), [conv()], [("padding", f"it: {UNEVEN}")]),
    ((None, None), [conv(strides=1)], []),
    ((8, 8), [conv(padding="valid")], []),
    ((8, 8), [conv(kernel_size=5, strides=1, dilation_rate=3)], []),
    ((8, 8), [conv(kernel_size=4, strides=1, dilation_rate=3)], [("padding", f"it: {UNEVEN}")]),
    ((8, 8), [("MaxPooling2D", "it", {"pool_size": 3, "strides": 2, "padding": "same"})],
     [("padding", f"it: {UNEVEN}")]),
    ((8, 8), [("Conv2DTranspose", "it", {"kernel_size": 3, "strides": 2, "padding": "same"})],
     [("padding", f"it: {UNEVEN}")]),
    ((8, 8), [("Conv2DTranspose", "it", {"kernel_size": 4, "strides": 2, "padding": "same"})], []),
    ((8, 8), [("Conv2DTranspose", "it", {"kernel_size": 3, "strides": 2, "padding": "valid"})], []),
    ((8, 8), [("ZeroPadding2D", "it", {"padding": [[0, 1], [0, 1]]})], [("padding", f"it: {UNEVEN}")]),
    ((8, 8), [("ZeroPadding2D", "it", {"padding": [[1, 1], [2, 2]]})], []),
    ((8, 8), [FIRST_CONV, SECOND_CONV], [("strides", f"a: {STRIDES}")]),
    ((8, 8), [FIRST_CONV, ("BatchNormalization", "n", {}), ("ReLU", "r", {}), SECOND_CONV],
     [("strides", f"a: {STRIDES}")]),
    ((8, 8), [FIRST_CONV, ("DepthwiseConv2D", "b", {"kernel_size": [1, 3]})], [("strides", f"a: {STRIDES}")]),
    ((8, 8), [FIRST_CONV, ("Conv2D", "b", {"kernel_size": 3, "strides": 2})], []),
    ((8, 8), [FIRST_CONV, ("Conv2D", "b", {"kernel_size": 1})], []),
    ((8, 8), [FIRST_CONV, ("MaxPooling2D", "p", {"pool_size": 1}), SECOND_CONV], []),
    ((8, 8), [("Conv2D", "a", {"kernel_size": 1}), SECOND_CONV], []),
    ((8, 8), [("Conv2D", "a", {"kernel_size": 2, "strides": 2}), SECOND_CONV], []),
    ((8, 8), [FIRST_CONV], []),
    ((9, 9), [("AveragePooling2D", "it", {"pool_size": 3, "strides": 2, "padding": "same"})],
     [("averaging", f"it: {BORDER}")]),
    ((8, 8), [("AveragePooling2D", "it", {"pool_size": 2, "padding": "same"})], []),
    ((9, 9), [("AveragePooling2D", "it", {"pool_size": 3, "strides": 2, "padding": "valid"})], []),
    ((9, 9), [("ZeroPadding2D", "it", {"padding": 1}), ("MaxPooling2D", "p", {"pool_size": 3})],
     [("padding", f"it: {ZEROS}")]),
    ((9, 9), [ALWAYS, ("ZeroPadding2D", "it", {"padding": 1}), ("MaxPooling2D", "p", {"pool_size": 3})], []),
    ((9, 9), [ALWAYS, ("ZeroPadding2D", "it", {"padding": 1}), ("AveragePooling2D", "p", {"pool_size": 3})], []),
    ((9, 9), [("ReLU", "first", {"negative_slope": 0.01}), ("ZeroPadding2D", "it", {"padding": 1}),
              ("MaxPooling2D", "p", {"pool_size": 3})],
     [("activation", "first: a LeakyReLU of the slope 0.01"), ("padding", f"it: {ZEROS}")]),
    ((9, 9), [("Conv2D", "c", {"kernel_size": 1, "activation": "sigmoid"}), ("ZeroPadding2D", "it", {"padding": 1}),
              ("MaxPooling2D", "p", {"pool_size": 3})], []),
    ((9, 9), [("Conv2D", "c", {"kernel_size": 1, "activation": "linear"}), ("ZeroPadding2D", "it", {"padding": 1}),
              ("MaxPooling2D", "p", {"pool_size": 3})], [("padding", f"it: {ZEROS}")]),
    ((9, 9), [activation("LeakyReLU", negative_slope=0.2)],
     [("activation", f"it: a LeakyReLU of the slope 0.2{NOT_TORCHS}")]),
    ((9, 9), [activation("LeakyReLU", alpha=0.1)], [("activation", f"it: a LeakyReLU of the slope 0.1{NOT_TORCHS}")]),
    ((9, 9), [activation("LeakyReLU")], [("activation", f"it: a LeakyReLU of the slope 0.3{NOT_TORCHS}")]),
    ((9, 9), [activation("LeakyReLU", negative_slope=0.01)], [("activation", "it: a LeakyReLU of the slope 0.01")]),
    ((9, 9), [activation("Activation", activation="leaky_relu")],
     [("activation", f"it: a LeakyReLU of the slope 0.2{NOT_TORCHS}")]),
    ((9, 9), [activation("Dense", activation={"class_name": "LeakyReLU", "config": {"negative_slope": 0.5}})],
     [("activation", f"it: a LeakyReLU of the slope 0.5{NOT_TORCHS}")]),
    ((9, 9), [activation("ELU", alpha=0.5)], [("activation", f"it: an ELU of alpha 0.5{NOT_TORCHS}")]),
    ((9, 9), [activation("ELU")], [("activation", "it: an ELU of alpha 1")]),
    ((9, 9), [activation("Activation", activation="gelu")], [("activation", "it: a GELU exact")]),
    ((9, 9), [activation("Gelu")], [("activation", f"it: a GELU computed by tanh{NOT_TORCHS}")]),
    ((9, 9), [activation("Gelu", approximate=False)], [("activation", "it: a GELU computed exact")]),
    ((9, 9), [activation("ReLU", max_value=6.0)], []),
    ((9, 9), [activation("ReLU", max_value=4.0)],
     [("activation", "it: a ReLU with a threshold or with another maximum than 6, which torch has none of")]),
    ((9, 9), [activation("ReLU", max_value=6.0, negative_slope=0.1)],
     [("activation", "it: a ReLU with a threshold or with another maximum than 6, which torch has none of")]),
    ((9, 9), [activation("ReLU", threshold=0.5)],
     [("activation", "it: a ReLU with a threshold or with another maximum than 6, which torch has none of")]),
    ((9, 9), [activation("ReLU", negative_slope=0.2)],
     [("activation", f"it: a LeakyReLU of the slope 0.2{NOT_TORCHS}")]),
    ((9, 9), [("Conv2D", "c", {"kernel_size": 1}), ("Rescaling", "it", {"scale": 2.0})],
     [("layers", "it: a Rescaling behind the first layers, which the target must have as well")]),
    ((9, 9), [activation("Lambda")], [("layers", "it: a Lambda, which graft cannot compare with anything")]),
    ((9, 9), [activation("Dropout")], []),
    ((9, 9), [activation("RandomFlip")], []),
]  # fmt: skip


@pytest.mark.parametrize(("sides", "layers", "expected"), DIFFERENCES)
def test_a_difference_that_no_shape_shows_is_found_and_named(sides, layers, expected) -> None:
    found = findings_of(sequential(sides, *layers), None)
    assert [(finding.caution.value, finding.doubt().reason) for finding in found] == expected


def test_a_hard_sigmoid_is_another_one_in_keras_2_alone() -> None:
    layer = ("Activation", "it", {"activation": "hard_sigmoid"})
    (finding,) = findings_of(sequential((9, 9), layer, version="2.15.0"), None)
    assert finding.doubt().reason == "it: the hard sigmoid of Keras 2, 0.2·x + 0.5; torch's is x / 6 + 0.5"
    assert findings_of(sequential((9, 9), layer, version="3.1.0"), None) == []


def test_what_prepares_the_images_or_has_tensors_is_no_difference() -> None:
    graph = sequential((9, 9), ("Rescaling", "it", {"scale": 2.0}), ("Lambda", "that", {}))
    reasons = [finding.doubt().reason for finding in findings_of(graph, None, prepared=["it"], with_weights=["that"])]
    assert reasons == []
    assert len(findings_of(graph, None)) == 2


def test_layers_alike_are_one_doubt_that_a_network_of_the_same_habit_settles() -> None:
    slopes = [("LeakyReLU", f"r{place}", {"negative_slope": 0.3}) for place in range(5)]
    (finding,) = findings_of(sequential((9, 9), *slopes), None)
    doubt = finding.doubt()
    assert doubt.reason == f"r0, r1, r2 and 2 more: a LeakyReLU of the slope 0.3{NOT_TORCHS}"
    assert doubt.remedy == "a target with that activation, or accept another function (donor.keras.accept=[activation])"
    assert doubt.needs == {Habit.leaky_slope: {"0.3"}}
    both = findings_of(sequential((9, 9), *slopes[:1], ("LeakyReLU", "other", {"negative_slope": 0.1})), None)
    assert [each.doubt().needs for each in both] == [{Habit.leaky_slope: {"0.3", "0.1"}}] * 2
    (unsettled,) = findings_of(sequential((9, 9), ("Lambda", "it", {})), None)
    assert unsettled.doubt().needs is None
