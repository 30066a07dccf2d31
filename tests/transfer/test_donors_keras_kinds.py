"""What a layer of a Keras file is and becomes: by its variables' names, by its shapes, and where it is asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from graft.config.schema import KerasConfig
from graft.transfer.donors.keras.graph import Graph
from graft.transfer.donors.keras.kinds import kind_of, raw
from graft.transfer.donors.keras.layers import Kind, Mismatch, convert, variables_of
from graft.transfer.donors.keras.variables import FileLayer
from tests.transfer.keras_configs import sequential

Shapes = Sequence[tuple[int, ...]]
NORM = ["gamma", "beta", "moving_mean", "moving_variance"]
K332 = (3, 3, 2, 4)


def held(shapes: Shapes, names: list[str] | None = None, hint: str = "", layer: str = "x") -> FileLayer:
    return FileLayer(
        layer=layer, hint=hint, datasets=[f"{layer}/vars/{place}" for place in range(len(shapes))], names=names
    )


# -- what a layer is, where no config says it

BY_NAMES: list[tuple[list[str], Shapes, str, list[str]]] = [
    (NORM, [(4,)] * 4, "batch_normalization", NORM),
    (NORM[2:], [(4,)] * 2, "batch_normalization", NORM[2:]),
    (["gamma", "beta"], [(4,)] * 2, "layer_normalization", ["gamma", "beta"]),
    (["beta"], [(4,)], "layer_normalization", ["beta"]),
    (["embeddings"], [(5, 3)], "embedding", ["embeddings"]),
    (["kernel", "bias"], [(4, 5), (5,)], "dense", ["kernel", "bias"]),
    (["kernel"], [K332], "conv2d", ["kernel"]),
    (["depthwise_kernel", "bias"], [K332, (8,)], "depthwise_conv2d", ["kernel", "bias"]),
    (["depthwise_kernel"], [(3, 2, 4)], "depthwise_conv1d", ["kernel"]),
    (["depthwise_kernel", "pointwise_kernel", "bias"], [(3, 2, 4), (1, 8, 6), (6,)], "separable_conv1d", []),
    (["depthwise_kernel", "pointwise_kernel"], [K332, (1, 1, 8, 6)], "separable_conv2d", []),
]


@pytest.mark.parametrize(("names", "shapes", "kind", "variables"), BY_NAMES)
def test_a_layer_is_known_by_its_variables_names(names: list[str], shapes: Shapes, kind: str, variables) -> None:
    known = kind_of(held(shapes, names), shapes, None, KerasConfig())
    assert known.kind is Kind(kind)
    assert known.datasets == dict(zip(variables or names, held(shapes).datasets, strict=True))
    assert known.guessed is (kind == "conv2d")  # a plain kernel's convolution is told by its shape


def test_a_layer_scale_is_known_by_its_layer_s_name() -> None:
    for name, kind in (("block_layer_scale", Kind.layer_scale), ("block_norm", Kind.layer_normalization)):
        assert kind_of(held([(4,)], ["gamma"], name), [(4,)], None, KerasConfig()).kind is kind
    two = kind_of(held([(4,)] * 2, ["gamma", "beta"], "layer_scale"), [(4,)] * 2, None, KerasConfig())
    assert two.kind is Kind.layer_normalization


BY_SHAPES: list[tuple[Shapes, str, str | None]] = [
    ([(4,)] * 4, "x", "batch_normalization"),
    ([(4, 5), (5,)], "x", "dense"),
    ([(4, 4), (4,)], "x", "dense"),
    ([(4, 5)], "x", "dense"),
    ([(4, 4)], "x", None),  # a layer norm over two axes, say
    ([(4,)] * 2, "x", None),
    ([(3, 2, 4), (4,)], "x", "conv1d"),
    ([K332, (4,)], "x", "conv2d"),
    ([K332], "x", "conv2d"),
    ([(3, 3, 3, 2, 4)], "x", "conv3d"),
    ([K332, (2,)], "x", "conv2d_transpose"),  # the bias is of the outputs, which stand first there
    ([K332], "up_transpose", "conv2d_transpose"),
    ([K332, (4,)], "up_transpose", "conv2d"),
    ([(3, 3, 4, 4), (4,)], "x", "conv2d"),
    ([K332, (8,)], "my_depthwise", "depthwise_conv2d"),
    ([K332, (4,)], "my_depthwise", "conv2d"),
    ([K332], "my_depthwise", "depthwise_conv2d"),
    ([(3, 3, 4, 1), (4,)], "x", "depthwise_conv2d"),
    ([(3, 3, 4, 1)], "x", "depthwise_conv2d"),
    ([(3, 3, 4, 1), (1,)], "x", "conv2d"),
    ([(3, 3, 1, 1), (1,)], "x", "conv2d"),
    ([(3, 3, 3, 4, 1)], "x", "conv3d"),  # Keras has no depthwise one
    ([(3, 4, 1)], "x", "depthwise_conv1d"),
]


@pytest.mark.parametrize(("shapes", "name", "kind"), BY_SHAPES)
def test_a_layer_without_names_is_told_by_its_shapes_or_asked_for(shapes: Shapes, name: str, kind: str | None) -> None:
    layer = held(shapes, layer=name)
    if kind is None:
        listed = ", ".join("×".join(map(str, shape)) for shape in shapes)
        with pytest.raises(Mismatch) as caught:
            kind_of(layer, shapes, None, KerasConfig())
        assert str(caught.value) == (
            f"variables of shapes {listed} could be several classes; set donor.keras.layers={{{name}: CLASS}} "
            f"(one of {', '.join(Kind.__members__)})"
        )
        told = (
            kind_of(layer, shapes, None, KerasConfig(layers={"x*": "group_normalization"}))
            if len(shapes) == 2
            else None
        )
        assert told is None or (told.kind, told.guessed) == (Kind.group_normalization, False)
        return
    known = kind_of(layer, shapes, None, KerasConfig())
    assert (known.kind, known.guessed) == (Kind(kind), True)


def test_a_norm_s_missing_variable_is_told_known_of_its_family_or_in_the_config() -> None:
    shapes = [(4,)] * 3
    layer = held(shapes, hint="batch_normalization")

    def variables(options: KerasConfig, *, graph: Graph | None = None, unscaled: bool = False) -> list[str]:
        return list(kind_of(layer, shapes, graph, options, unscaled=unscaled).datasets)

    assert variables(KerasConfig(absent={"x": "beta"})) == ["gamma", "moving_mean", "moving_variance"]
    assert variables(KerasConfig(absent={"*": "gamma"})) == ["beta", "moving_mean", "moving_variance"]
    assert variables(KerasConfig(), unscaled=True) == ["beta", "moving_mean", "moving_variance"]
    assert variables(KerasConfig(absent={"x": "beta"}), unscaled=True) == ["gamma", "moving_mean", "moving_variance"]
    for absent, rest in (("scale", "beta"), ("center", "gamma")):
        graph = sequential((9, 9), ("BatchNormalization", "x", {absent: False}))
        assert variables(KerasConfig(), graph=graph) == [rest, "moving_mean", "moving_variance"]
    with pytest.raises(Mismatch, match=r"^batch_normalization with gamma, beta, moving_mean, moving_variance has 4 "
                                       r"variables, received 3$"):  # fmt: skip
        variables(KerasConfig())
    whole = kind_of(held([(4,)] * 4, hint="batch_normalization"), [(4,)] * 4, None, KerasConfig(), unscaled=True)
    assert list(whole.datasets) == NORM


WRONG_NAMES: list[tuple[str, list[str], str]] = [
    ("dense", ["kernel", "offset"], "dense has kernel, perhaps bias, received kernel, offset"),
    ("dense", ["bias"], "dense has kernel, perhaps bias, received bias"),
    ("dense", ["kernel", "kernel"], "dense has kernel, perhaps bias, received kernel, kernel"),
    ("embedding", ["a", "b"], "embedding has embeddings, received a, b"),
    ("layer_normalization", ["gamma", "kernel"],
     "layer_normalization has perhaps beta, perhaps gamma, received gamma, kernel"),
    ("batch_normalization", ["gamma", "moving_mean"],
     "batch_normalization has moving_mean, moving_variance, perhaps beta, perhaps gamma, received gamma, moving_mean"),
    ("separable_conv2d", ["kernel"],
     "separable_conv2d has depthwise_kernel, pointwise_kernel, perhaps bias, received kernel"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "names", "said"), WRONG_NAMES)
def test_a_kind_that_its_variables_names_contradict_is_refused(kind: str, names: list[str], said: str) -> None:
    shapes = [(4,)] * len(names)
    with pytest.raises(Mismatch, match=f"^{re.escape(said)}$"):
        kind_of(held(shapes, names), shapes, None, KerasConfig(layers={"x": kind}))


def test_a_layer_that_no_tensor_of_torch_stands_for_stays_as_keras_has_it() -> None:
    shapes = [(3,), (3,), (), ()]
    as_normalization = kind_of(held(shapes, hint="normalization"), shapes, None, KerasConfig())
    assert as_normalization.kind is None
    assert list(as_normalization.datasets) == ["mean", "variance", "count", "3"]
    assert list(kind_of(held(shapes[:2], ["mean", "variance"]), shapes[:2], None, KerasConfig()).datasets) == [
        "mean", "variance",
    ]  # fmt: skip
    assert list(raw(held(shapes)).datasets) == ["0", "1", "2", "3"]
    graph = sequential((9, 9), ("Attention", "x", {}))
    assert list(kind_of(held(shapes[:2]), shapes[:2], graph, KerasConfig()).datasets) == ["0", "1"]


# -- what a layer becomes

UNFIT: list[tuple[str, dict[str, tuple[int, ...]], int | None, str]] = [
    ("p_re_lu", {"alpha": (2, 1, 4)}, None,
     "p_re_lu with an alpha of shape (2, 1, 4), one for each place; torch's has one a channel"),
    ("separable_conv2d", {"depthwise_kernel": K332, "pointwise_kernel": (1, 1, 7, 6)}, None,
     "separable_conv2d with a depthwise kernel of (3, 3, 2, 4) and a pointwise one of (1, 1, 7, 6)"),
    ("separable_conv2d", {"depthwise_kernel": K332, "pointwise_kernel": (2, 1, 8, 6)}, None,
     "separable_conv2d with a depthwise kernel of (3, 3, 2, 4) and a pointwise one of (2, 1, 8, 6)"),
    ("conv2d", {"kernel": K332, "bias": (3,)}, None, "conv2d with 4 outputs and a bias of shape (3,)"),
    ("conv2d_transpose", {"kernel": K332, "bias": (4,)}, None,
     "conv2d_transpose with 2 outputs and a bias of shape (4,)"),
    ("depthwise_conv2d", {"kernel": K332, "bias": (4,)}, None,
     "depthwise_conv2d with 8 outputs and a bias of shape (4,)"),
    ("conv2d", {"kernel": (3, 4)}, None, "conv2d needs a kernel with 4 axes, received (3, 4)"),
    ("conv1d", {"kernel": K332}, None, "conv1d needs a kernel with 3 axes, received (3, 3, 2, 4)"),
    ("conv3d", {"bias": (4,)}, None, "conv3d needs a kernel with 5 axes, received none"),
    ("embedding", {"embeddings": (4,)}, None, "embedding needs a embeddings with 2 axes, received (4,)"),
    ("layer_scale", {"gamma": (4, 1)}, None, "layer_scale needs a gamma with 1 axes, received (4, 1)"),
    ("dense", {"kernel": (20, 3)}, 3, "dense with 20 features behind a Flatten of 3 channels"),
    ("dense", {"kernel": (20, 3)}, 0, "dense with 20 features behind a Flatten of 0 channels"),
    ("layer_normalization", {"gamma": (20,)}, 7, "layer_normalization with 20 features behind a Flatten of 7 channels"),
    ("batch_normalization", {"gamma": (4,), "moving_mean": (3,)}, None,
     "batch_normalization with variables of shapes (4,), (3,)"),
    ("batch_normalization", {"moving_mean": (4, 1), "moving_variance": (4, 1)}, None,
     "batch_normalization with variables of shapes (4, 1), (4, 1)"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "shapes", "flattened", "said"), UNFIT)
def test_shapes_that_a_kind_cannot_have_are_refused(kind: str, shapes, flattened: int | None, said: str) -> None:
    with pytest.raises(Mismatch, match=f"^{re.escape(said)}$"):
        convert(Kind(kind), shapes, flattened=flattened)


MADE: list[tuple[str, dict[str, tuple[int, ...]], list[tuple[str, str | None, tuple[int, ...], str]]]] = [
    ("p_re_lu", {"alpha": (1, 1, 4)}, [("weight", "alpha", (4,), "")]),
    ("layer_scale", {"gamma": (4,)}, [("gamma", "gamma", (4,), "")]),
    ("embedding", {"embeddings": (5, 3)}, [("weight", "embeddings", (5, 3), "")]),
    ("conv2d", {"kernel": K332, "bias": (4,)}, [("weight", "kernel", (4, 2, 3, 3), ""), ("bias", "bias", (4,), "")]),
    ("conv3d_transpose", {"kernel": (1, 2, 3, 4, 5)}, [("weight", "kernel", (5, 4, 1, 2, 3), "")]),
    ("depthwise_conv1d", {"kernel": (3, 2, 4), "bias": (8,)},
     [("weight", "kernel", (8, 1, 3), ""), ("bias", "bias", (8,), "")]),
    ("separable_conv1d", {"depthwise_kernel": (3, 2, 4), "pointwise_kernel": (1, 8, 6), "bias": (6,)},
     [("depthwise.weight", "depthwise_kernel", (8, 1, 3), ""),
      ("pointwise.weight", "pointwise_kernel", (6, 8, 1), ""), ("pointwise.bias", "bias", (6,), "")]),
    ("dense", {"kernel": (5, 3)}, [("weight", "kernel", (3, 5), "")]),
    ("batch_normalization", {"moving_mean": (4,), "moving_variance": (4,)},
     [("weight", None, (4,), "1 throughout: the Keras layer has no gamma"),
      ("bias", None, (4,), "0 throughout: the Keras layer has no beta"),
      ("running_mean", "moving_mean", (4,), ""), ("running_var", "moving_variance", (4,), "")]),
    ("group_normalization", {"gamma": (4,), "beta": (4,)}, [("weight", "gamma", (4,), ""), ("bias", "beta", (4,), "")]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "shapes", "expected"), MADE)
def test_a_layer_becomes_torchs_tensors(kind: str, shapes, expected) -> None:
    assert [(each.suffix, each.source, each.shape, each.rule) for each in convert(Kind(kind), shapes)] == expected


def test_behind_a_flatten_rows_are_reordered_and_the_rule_says_so() -> None:
    (weight,) = convert(Kind.dense, {"kernel": (20, 3)}, flattened=5)
    assert weight.rule == "K.reshape(HW, 5, O).permute(2, 1, 0).reshape(O, -1): rows H, W, C behind a Flatten"
    assert convert(Kind.dense, {"kernel": (20, 3)}, flattened=20)[0].rule == ""  # of one place
    gamma, _ = convert(Kind.layer_normalization, {"gamma": (20,), "beta": (20,)}, flattened=5)
    assert gamma.rule == "v.reshape(HW, 5).t().reshape(-1): features H, W, C behind a Flatten"
    assert convert(Kind.layer_normalization, {"gamma": (20,)}, flattened=20)[0].rule == ""


COUNTED: list[tuple[str, int, dict[str, bool], list[str]]] = [
    ("dense", 1, {}, ["kernel"]),
    ("dense", 2, {}, ["kernel", "bias"]),
    ("separable_conv1d", 2, {}, ["depthwise_kernel", "pointwise_kernel"]),
    ("separable_conv2d", 3, {}, ["depthwise_kernel", "pointwise_kernel", "bias"]),
    ("batch_normalization", 4, {}, NORM),
    ("group_normalization", 1, {"scale": False}, ["beta"]),
    ("p_re_lu", 1, {}, ["alpha"]),
]
MISCOUNTED: list[tuple[str, int, dict[str, bool], str]] = [
    ("dense", 3, {}, "dense with kernel, bias has 2 variables, received 3"),
    ("dense", 1, {"bias": True}, "dense with kernel, bias has 2 variables, received 1"),
    ("dense", 2, {"bias": False}, "dense with kernel has 1 variables, received 2"),
    ("separable_conv2d", 1, {}, "separable_conv2d with depthwise_kernel, pointwise_kernel has 2 variables, received 1"),
    ("layer_normalization", 1, {"scale": False, "center": False},
     "layer_normalization with nothing has 0 variables, received 1"),
]  # fmt: skip


def test_numbered_variables_are_named_by_their_count() -> None:
    for kind, count, settings, names in COUNTED:
        assert variables_of(Kind(kind), count, **settings) == names
    for kind, count, settings, said in MISCOUNTED:
        with pytest.raises(Mismatch, match=f"^{re.escape(said)}$"):
            variables_of(Kind(kind), count, **settings)
