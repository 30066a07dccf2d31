"""A Keras model's config read into a graph and computed from it, in the forms that Keras 1, 2 and 3 write; no Keras."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from graft.transfer.donors.keras.activations import Unknown, activation
from graft.transfer.donors.keras.functions import function_of
from graft.transfer.donors.keras.graph import Graph, Layer, Reference, snake_case
from graft.transfer.donors.keras.model import KerasModel
from graft.transfer.donors.keras.model_config import graph_of
from graft.transfer.donors.keras.preparation import of_tensors, prepared
from graft.transfer.donors.keras.weighted import computation_of
from tests.transfer.keras_configs import entry, functional, sequential


def layer(class_name: str, **config: Any) -> Layer:
    return Layer(name="it", class_name=class_name, config=config, parents=[])


def image(*sides: int | None) -> dict[str, Any]:
    return entry("InputLayer", "image", {"batch_shape": [None, *sides]})


# -- the graph


def test_operands_are_read_in_the_forms_of_keras_2_and_3() -> None:
    history = {"class_name": "__keras_tensor__", "config": {"keras_history": ["a", 0, 0]}}
    nodes: list[tuple[Any, list[Any]]] = [
        ([["a", 0, 0, {}]], [Reference("a")]),
        ([["a", 0, 0, {"y": 2.5, "name": "add", "training": True, "mask": None}]], [Reference("a"), 2.5]),
        ([["a", 0, 0, {"y": ["b", 0, 0]}]], [Reference("a"), Reference("b")]),
        ([["a", 0, 0, {}], ["b", 0, 0, {}]], [Reference("a"), Reference("b")]),
        ({"args": [history], "kwargs": {}}, [Reference("a")]),
        ({"args": [[history, history]], "kwargs": {"training": False}}, [Reference("a"), Reference("a")]),
        ({"args": [history, 3], "kwargs": {}}, [Reference("a"), 3]),
        (
            {"args": [history, {"class_name": "__tensor__", "config": {"value": [1.0, 2.0]}}]},
            [Reference("a"), [1.0, 2.0]],
        ),
        ({"args": [history, [{"class_name": "__ellipsis__", "config": {}}, 2]]}, [Reference("a"), "__ellipsis__", 2]),
        ({"args": [history, [1, 2]]}, [Reference("a"), [1, 2]]),
    ]
    for node, operands in nodes:
        listed = [
            entry("InputLayer", "a", {}), entry("InputLayer", "b", {}),
            {"class_name": "Add", "config": {"name": "it"}, "inbound_nodes": [node]},
        ]  # fmt: skip
        graph = graph_of({"class_name": "Model", "config": {"layers": listed}})
        assert graph.layers["it"].operands == operands
        named = [each.name for each in operands if isinstance(each, Reference)]
        assert graph.layers["it"].parents == list(dict.fromkeys(named))


def test_layers_of_nested_models_go_by_their_path_and_by_what_keras_calls_them() -> None:
    inner = {
        "class_name": "Sequential", "name": "inner",
        "config": {"name": "inner", "layers": [image(9, 9, 3), entry("Conv2D", "c", {}), entry("Conv2D", "d", {})]},
        "inbound_nodes": [[["image", 0, 0, {}]], [["last", 0, 0, {}]]],
    }  # fmt: skip
    graph = functional(image(9, 9, 3), inner, entry("ReLU", "last", {}, "inner"))
    assert list(graph.layers) == ["image", "inner.image", "inner.c", "inner.d", "last"]
    assert (graph.end, graph.ends, graph.calls, graph.models) == ("last", {"inner": "inner.d"}, {"inner": 2}, ["inner"])
    assert graph.parents("last") == ["inner.d"]
    assert graph.parents("inner.image") == ["image"]
    assert graph.children("inner.c") == ["inner.d"]
    assert graph.children("last") == []
    assert graph.automatic["sequential.conv2d_1"] == "inner.d"
    assert graph.automatic["re_lu"] == "last"
    assert (graph.model, graph.version) == ("m", 3)
    assert graph_of({"class_name": "Sequential", "config": []}, "2.4.0").version == 2
    assert graph_of({"class_name": "Sequential", "config": []}, "nightly").version == 3
    deep: dict[str, Any] = entry("ReLU", "r", {})
    for place in range(16):
        deep = {"class_name": "Sequential", "config": {"name": f"m{place}", "layers": [deep]}}
    assert len(graph_of(deep).layers) == 1
    deeper = {"class_name": "Sequential", "config": {"name": "m", "layers": [deep]}}
    with pytest.raises(ValueError, match=r"^models nested more than 16 deep$"):
        graph_of(deeper)


def test_classes_are_spelt_as_in_weights_files() -> None:
    names = {"Conv2D": "conv2d", "PReLU": "p_re_lu", "BatchNormalization": "batch_normalization", "ReLU": "re_lu",
             "Conv2DTranspose": "conv2d_transpose", "my-Layer": "my_layer"}  # fmt: skip
    assert {name: snake_case(name) for name in list(names)[:5]} == {name: names[name] for name in list(names)[:5]}


CHANNELS: list[tuple[list[dict[str, Any]], int | None]] = [
    ([], 3),
    ([entry("Conv2D", "a", {"filters": 8}, "image")], 8),
    ([entry("Dense", "a", {"units": 5}, "image")], 5),
    ([entry("Conv2D", "a", {"filters": True}, "image")], None),
    ([entry("DepthwiseConv2D", "a", {"depth_multiplier": 2}, "image")], 6),
    ([entry("DepthwiseConv2D", "a", {}, "image")], 3),
    ([entry("DepthwiseConv2D", "a", {"depth_multiplier": "x"}, "image")], None),
    ([entry("MaxPooling2D", "a", {}, "image")], 3),
    ([entry("ReLU", "a", {}, "image"), entry("ZeroPadding2D", "b", {}, "a")], 3),
    ([entry("Lambda", "a", {}, "image")], None),
    ([entry("Conv2D", "a", {"filters": 8}, "image"), entry("Concatenate", "b", {}, "a", "image")], 11),
    ([entry("Lambda", "a", {}, "image"), entry("Concatenate", "b", {}, "a", "image")], None),
    ([entry("Conv2D", "a", {"filters": 8}, "image"), entry("Add", "b", {}, "a", "image")], 8),
]


@pytest.mark.parametrize(("layers", "channels"), CHANNELS)
def test_the_channels_of_a_map_are_followed_through_the_graph(layers: list[dict[str, Any]], channels) -> None:
    last = layers[-1]["name"] if layers else "image"
    graph = functional(image(9, 9, 3), *layers, entry("Flatten", "it", {}, last))
    assert graph.channels_into("it") == channels
    assert graph.channels_into("nothing") is None
    built = {**entry("Flatten", "it", {}, last), "build_config": {"input_shape": [None, 4, 4, 7]}}
    assert functional(image(9, 9, 3), *layers, built).channels_into("it") == 7
    first = {**built, "config": {"name": "it", "data_format": "channels_first"}}
    assert functional(image(9, 9, 3), *layers, first).channels_into("it") == 4
    several = {**built, "build_config": {"input_shape": [[None, 4, 4, 7], [None, 4, 4, 7]]}}
    assert functional(image(9, 9, 3), *layers, several).channels_into("it") == channels


def test_a_flatten_is_found_through_what_keeps_the_order_of_features() -> None:
    keeps = sequential((9, 9), ("Flatten", "f", {}), ("Dropout", "d", {}), ("ReLU", "r", {}), ("Dense", "it", {}))
    assert keeps.flatten_before("it") == "f"
    assert keeps.flatten_before("f") is None
    reshaped = sequential((9, 9), ("Reshape", "f", {"target_shape": [243]}), ("Dense", "it", {}))
    assert reshaped.flatten_before("it") == "f"
    for between in (("Reshape", "f", {"target_shape": [27, 9]}), ("Dense", "f", {}), ("GlobalMaxPooling2D", "f", {})):
        assert sequential((9, 9), between, ("Dense", "it", {})).flatten_before("it") is None
    joined = functional(image(9, 9, 3), entry("Flatten", "f", {}, "image"), entry("Add", "it", {}, "f", "image"))
    assert joined.flatten_before("it") is None


def test_a_head_is_what_stands_behind_the_pooling() -> None:
    pooled = sequential((9, 9), ("Conv2D", "c", {}), ("GlobalAveragePooling2D", "p", {}), ("Dropout", "d", {}),
                        ("Dense", "it", {}))  # fmt: skip
    assert pooled.head() == ["it", "d"]
    assert sequential((9, 9), ("Conv2D", "c", {})).head() == []
    joined = functional(image(9, 9, 3), entry("Flatten", "f", {}, "image"), entry("Add", "it", {}, "f", "image"))
    assert joined.head() == []


# -- what is computed


def model(graph: Graph, **options: Any) -> KerasModel:
    return KerasModel(graph, lambda name: {}, **options)


def test_a_model_takes_its_inputs_in_order_and_may_end_early() -> None:
    graph = functional(
        entry("InputLayer", "a", {}), entry("InputLayer", "b", {}), entry("Subtract", "s", {}, "a", "b"),
        entry("Activation", "r", {"activation": "relu"}, "s"),
    )  # fmt: skip
    one, two = torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 2.0]])
    assert model(graph)(one, two).tolist() == [[0, 3]]
    assert model(graph, to="s")(one, two).tolist() == [[-2, 3]]
    with pytest.raises(ValueError, match=r"^expected 2 inputs, received 1$"):
        model(graph)(one)


UNCOMPUTED: list[tuple[Graph, str]] = [
    (functional(image(3), entry("Lambda", "it", {}, "image")), "it, a Lambda"),
    (functional(image(3), entry("ReLU", "it", {}, "gone")), "a layer 'gone' that the config does not have"),
    (functional(image(3), entry("ReLU", "a", {}, "b"), entry("ReLU", "b", {}, "a")), "b, which feeds itself"),
    (functional(image(3), {**entry("ReLU", "it", {}, "image"), "inbound_nodes": [[["image", 0, 0, {}]]] * 2}),
     "it, which the model calls more than once"),
]  # fmt: skip


@pytest.mark.parametrize(("graph", "said"), UNCOMPUTED)
def test_a_model_that_cannot_be_computed_says_why(graph: Graph, said: str) -> None:
    with pytest.raises(Unknown, match=f"^{re.escape(said)}$"):
        model(graph)


ONE, TWO = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 2.0]])
MERGED: list[tuple[Layer, list[Any], list[Any]]] = [
    (layer("Add"), [ONE, TWO], [[4, 6]]),
    (layer("Add"), [ONE, 1], [[4, 5]]),
    (layer("Add"), [10.0, ONE], [[13, 14]]),
    (layer("Subtract"), [ONE, TWO], [[2, 2]]),
    (layer("Multiply"), [ONE, TWO, TWO], [[3, 16]]),
    (layer("Divide"), [ONE, TWO], [[3, 2]]),
    (layer("TrueDivide"), [ONE, 2], [[1.5, 2]]),
    (layer("Average"), [ONE, TWO], [[2, 3]]),
    (layer("Maximum"), [ONE, torch.tensor([[9.0, 0.0]])], [[9, 4]]),
    (layer("Minimum"), [ONE, torch.tensor([[9.0, 0.0]])], [[3, 0]]),
    (layer("Concatenate"), [ONE, TWO], [[3, 4, 1, 2]]),
    (layer("Concatenate", axis=0), [ONE, TWO], [[3, 4], [1, 2]]),
    (layer("Stack", axis=1), [ONE, TWO], [[[3, 4], [1, 2]]]),
    (layer("Stack"), [ONE, TWO], [[[3, 4]], [[1, 2]]]),
    (layer("Dot", axes=-1), [ONE, TWO], [[11]]),
    (layer("Dot", axes=[1, 1], normalize=True), [ONE, ONE], [[1]]),
    (layer("CustomScaleLayer", scale=0.5), [ONE, TWO], [[3.5, 5]]),
    (layer("GetItem"), [ONE, "__ellipsis__", 1], [4]),
    (layer("TFOpLambda", function="math.subtract"), [ONE, 1.0], [[2, 3]]),
    (layer("TFOpLambda", function="math.truediv"), [ONE, 2.0], [[1.5, 2]]),
    (layer("TFOpLambda", function="__operators__.add"), [ONE, TWO], [[4, 6]]),
    (layer("TFOpLambda", function="nn.relu"), [torch.tensor([[-1.0, 2.0]])], [[0, 2]]),
    (layer("Masking", mask_value=1.0), [torch.tensor([[[1.0, 1.0], [1.0, 2.0]]])], [[[0, 0], [1, 2]]]),
    (layer("UnitNormalization"), [ONE], [[0.6, 0.8]]),
    (layer("RepeatVector", n=2), [ONE], [[[3, 4], [3, 4]]]),
    (layer("Rescaling", scale={"class_name": "__numpy__", "config": {"value": [2.0, 3.0]}}, offset=1.0), [ONE],
     [[7, 13]]),
    (layer("LeakyReLU", alpha=0.5), [-ONE], [[-1.5, -2]]),
    (layer("LeakyReLU", negative_slope={"class_name": "__numpy__", "config": 0.25}), [-ONE], [[-0.75, -1]]),
    (layer("ReLU", max_value=3.5, threshold=3.2, negative_slope=0.5), [ONE], [[-0.1, 3.5]]),
]  # fmt: skip


@pytest.mark.parametrize(("it", "given", "expected"), MERGED)
def test_an_operation_computes_what_keras_does(it: Layer, given: list[Any], expected: list[Any]) -> None:
    torch.testing.assert_close(function_of(it)(*given), torch.tensor(expected).float(), rtol=0, atol=1e-6)


NOT_COMPUTED: list[tuple[Layer, list[Any], str]] = [
    (layer("Dot", axes=2), [], "a Dot over the axes 2"),
    (layer("Dot", axes=1), [ONE[None], ONE[None]], "a Dot of maps"),
    (layer("GetItem"), [ONE, 1], "the selection (1,)"),
    (layer("GetItem"), [ONE, "__ellipsis__", "a"], "the selection ('__ellipsis__', 'a')"),
    (layer("TFOpLambda", function="math.reduce_euclidean_norm"), [], "the operation reduce_euclidean_norm"),
    (
        layer("CenterCrop", height=4, width=4),
        [torch.zeros(1, 3, 5, 1)],
        "a CenterCrop larger than its image, which Keras resizes",
    ),
    (layer("Softmax", axis=[1, 2]), [], "a softmax over the axes [1, 2]"),
    (layer("Resizing", height=1, width=1, crop_to_aspect_ratio=True), [], "a Resizing with crop_to_aspect_ratio"),
    (layer("Activation", activation="other"), [], "the activation 'other'"),
]  # fmt: skip


@pytest.mark.parametrize(("it", "given", "said"), NOT_COMPUTED)
def test_an_operation_that_is_not_computed_says_which(it: Layer, given: list[Any], said: str) -> None:
    with pytest.raises(Unknown, match=f"^{re.escape(said)}$"):
        function_of(it)(*given)


WITH_TENSORS: list[tuple[Layer, str]] = [
    (layer("LSTM"), "a LSTM"),
    (layer("Conv2DTranspose", output_padding=1), "a transposed convolution with an output padding of its own"),
    (layer("LayerNormalization", rms_scaling=True), "a LayerNormalization with rms_scaling"),
    (layer("GroupNormalization", axis=1), "a GroupNormalization over the axis 1"),
]


@pytest.mark.parametrize(("it", "said"), WITH_TENSORS)
def test_a_layer_with_tensors_that_is_not_computed_says_which(it: Layer, said: str) -> None:
    with pytest.raises(Unknown, match=f"^{re.escape(said)}$"):
        computation_of(it)


def test_a_layer_with_tensors_has_its_activation_behind_it() -> None:
    scale = computation_of(layer("LayerScale", activation="relu"))
    assert scale({"gamma": torch.tensor([2.0, -1.0])}, ONE).tolist() == [[6, 0]]
    written = {"class_name": "LeakyReLU", "config": {"negative_slope": 0.5}}
    assert activation(written)(-ONE).tolist() == [[-1.5, -2]]
    assert activation({"class_name": "function", "config": "relu"})(-ONE).tolist() == [[0, 0]]
    assert activation({"class_name": "tanh", "config": None})(ONE).tolist() == ONE.tanh().tolist()
    assert activation(None)(ONE) is ONE


# -- how images are prepared


def test_a_preparation_is_of_bytes_where_its_numbers_are_too_large_for_fractions() -> None:
    factors, offset = torch.tensor([1 / 127.5] * 3, dtype=torch.float64), torch.tensor([-1.0] * 3).double()
    found = prepared(offset, factors, turned=False, layers=["a", "b"])
    assert (found.mean, found.std, found.range, found.turned) == ((0.5,) * 3, (0.5,) * 3, 255.0, False)
    assert found.layers == ("a", "b")
    assert found.remark == (
        "the file prepares its images itself: taken from 0 to 255, mean [0.5, 0.5, 0.5] and std [0.5, 0.5, 0.5] of "
        "values from 0 to 1 come to the same"
    )
    plain = prepared(torch.zeros(1).double(), torch.tensor([0.5]).double(), turned=True, layers=[])
    assert (plain.mean, plain.std, plain.range) == ((0.0,), (2.0,), 1.0)
    assert plain.remark.endswith("mean [0] and std [2] of values from 0 to 1 come to the same, and blue, green, red "
                                 "are turned round")  # fmt: skip
    assert prepared(torch.zeros(1).double(), torch.tensor([0.49]).double(), turned=False, layers=[]).range == 255.0


def test_a_normalization_s_tensors_are_mean_and_deviation() -> None:
    variables = {"mean": torch.tensor([[[0.4, 0.5]]]), "variance": torch.tensor([[[0.04, 0.0]]])}
    found = of_tensors(variables, published=False, layer="n")
    assert found is not None
    assert found.layers == ("n",)
    assert (found.mean, found.std) == (pytest.approx((0.4, 0.5), abs=1e-6), pytest.approx((0.2, 1e-7), abs=1e-6))
    published = {"mean": torch.tensor([0.485, 0.456, 0.406]), "variance": torch.tensor([0.229, 0.224, 0.225])}
    for holds_deviations, std in ((True, (0.229, 0.224, 0.225)), (False, (0.229**0.5, 0.224**0.5, 0.225**0.5))):
        found = of_tensors(published, published=holds_deviations, layer="n")
        assert found is not None
        assert found.std == pytest.approx(std, abs=1e-6)
    other = of_tensors({**published, "variance": torch.tensor([0.2, 0.2, 0.2])}, published=True, layer="n")
    assert other is not None
    assert other.std == pytest.approx((0.2**0.5,) * 3, abs=1e-6)
    assert of_tensors({"mean": torch.ones(3)}, published=False, layer="n") is None
