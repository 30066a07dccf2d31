"""How large the map is that enters each layer of a Keras model, as Keras itself would have it."""

from __future__ import annotations

from typing import Any

import pytest

from graft.transfer.donors.keras.sizes import entering_sizes
from tests.transfer.keras_configs import entry, functional, sequential

SIZES: list[tuple[str, dict[str, Any], tuple[int | None, ...]]] = [
    ("Conv2D", {"kernel_size": 3, "padding": "valid"}, (7, 10)),
    ("Conv2D", {"kernel_size": [3, 3], "strides": [2, 2], "padding": "same"}, (5, 6)),
    ("Conv2D", {"kernel_size": 3, "dilation_rate": [2, 2]}, (5, 8)),
    ("Conv2D", {"kernel_size": [1, 5], "strides": [2, 1]}, (5, 8)),
    ("SeparableConv2D", {"kernel_size": 4, "strides": 3}, (2, 3)),
    ("DepthwiseConv2D", {"kernel_size": 3, "strides": 2}, (4, 5)),
    ("MaxPooling2D", {"pool_size": [2, 2], "strides": None}, (4, 6)),
    ("MaxPooling2D", {"pool_size": [3, 3], "strides": [2, 2], "padding": "same"}, (5, 6)),
    ("AveragePooling2D", {"pool_size": [2, 3], "strides": [1, 2]}, (8, 5)),
    ("Conv2DTranspose", {"kernel_size": 3, "strides": 2, "padding": "valid"}, (19, 25)),
    ("Conv2DTranspose", {"kernel_size": 3, "strides": 2, "padding": "same"}, (18, 24)),
    ("Conv2DTranspose", {"kernel_size": 1, "strides": 2}, (18, 24)),
    ("Conv2DTranspose", {"kernel_size": 3, "strides": 1, "dilation_rate": 2}, (13, 16)),
    ("UpSampling2D", {}, (18, 24)),
    ("UpSampling2D", {"size": [1, 3]}, (9, 36)),
    ("ZeroPadding2D", {"padding": 1}, (11, 14)),
    ("ZeroPadding2D", {"padding": [1, 2]}, (11, 16)),
    ("ZeroPadding2D", {"padding": [[0, 1], [2, 3]]}, (10, 17)),
    ("Cropping2D", {"cropping": [[1, 0], [2, 2]]}, (8, 8)),
    ("Resizing", {"height": 5, "width": 6}, (5, 6)),
    ("CenterCrop", {"height": 4, "width": None}, (4, None)),
    ("GlobalAveragePooling2D", {}, ()),
    ("Flatten", {}, ()),
    ("Reshape", {"target_shape": [108]}, ()),
    ("Permute", {"dims": [2, 1, 3]}, ()),
    ("ReLU", {}, (9, 12)),
]


@pytest.mark.parametrize(("class_name", "config", "expected"), SIZES)
def test_the_map_that_leaves_a_layer_is_of_the_size_that_keras_gives_it(class_name: str, config, expected) -> None:
    graph = sequential((9, 12), (class_name, "it", config), ("ReLU", "after", {}))
    assert entering_sizes(graph) == {"image": (), "it": (9, 12), "after": expected}


SLID_1D: list[tuple[dict[str, Any], int | None, int | None]] = [
    ({"kernel_size": 3, "padding": "causal"}, 9, 9),
    ({"kernel_size": 3, "padding": "causal", "strides": 2}, 9, 5),
    ({"kernel_size": 3}, None, None),
    ({"kernel_size": 3}, 9, 7),
]


@pytest.mark.parametrize(("config", "before", "after"), SLID_1D)
def test_a_side_that_nothing_says_stays_unknown(config, before: int | None, after: int | None) -> None:
    graph = sequential((before,), ("Conv1D", "it", config), ("ReLU", "after", {}))
    assert entering_sizes(graph)["after"] == (after,)
    spread = sequential((None, 4), ("Conv2DTranspose", "it", {"kernel_size": 2, "strides": 2}), ("ReLU", "after", {}))
    assert entering_sizes(spread)["after"] == (None, 8)


IMAGES: list[tuple[dict[str, Any], tuple[int | None, ...], tuple[int, ...]]] = [
    ({"batch_shape": [None, 9, 12, 3]}, (9, 12), (20, 20)),
    ({"batch_input_shape": [None, 9, 12, 3]}, (9, 12), (20, 20)),
    ({"batch_shape": [None, 3, 9, 12]}, (9, 12), (20, 20)),  # channels first
    ({"batch_shape": [None, 1, 9, 12]}, (9, 12), (20, 20)),
    ({"batch_shape": [None, 3, 9, 4]}, (3, 9), (20, 20)),  # as likely three rows of four channels
    ({"batch_shape": [None, 2, 9, 12]}, (2, 9), (20, 20)),
    ({"batch_shape": [None, 9, None, 3]}, (9, None), (20, 20)),
    ({"batch_shape": [None, 7]}, (), ()),
    ({}, (), ()),
]


@pytest.mark.parametrize(("config", "built", "asked"), IMAGES)
def test_images_are_as_large_as_the_model_was_built_for_or_as_the_run_has_them(config, built, asked) -> None:
    graph = functional(entry("InputLayer", "image", config), entry("ReLU", "it", {}, "image"))
    assert entering_sizes(graph)["it"] == built
    assert entering_sizes(graph, 20)["it"] == asked


def test_a_gate_of_one_place_does_not_shrink_the_map_that_it_gates() -> None:
    graph = functional(
        entry("InputLayer", "image", {"batch_shape": [None, 9, 12, 3]}),
        entry("AveragePooling2D", "gate", {"pool_size": [9, 12]}, "image"),
        entry("Multiply", "gated", {}, "gate", "image"),
        entry("ReLU", "after", {}, "gated"),
    )
    assert entering_sizes(graph) == {"image": (), "gate": (9, 12), "gated": (9, 12), "after": (9, 12)}
