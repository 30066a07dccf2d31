"""What becomes of the layers of a Keras file as a whole: names, epsilons, biases, doubts; small files without Keras."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from graft.config.faults import InputError
from graft.config.schema import KerasConfig
from graft.transfer.donor import Donor
from graft.transfer.donors import open_donor
from tests.transfer.keras_configs import entry

NORM = [(4,)] * 4
CERTAIN = "the options that are named, or the model saved whole as .keras, which holds its config"


def weights(path: Path, layers: Mapping[str, list[tuple[int, ...]]], **names: str) -> Path:
    """A file of weights alone; every value is another. `names`: what the file says that a layer is called."""
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for layer, shapes in layers.items():
            for number, shape in enumerate(shapes):
                file[f"layers/{layer}/vars/{number}"] = generator.uniform(0.5, 1, shape).astype("float32")
            if layer in names:
                file[f"layers/{layer}/vars"].attrs["name"] = names[layer]
    return path


def whole(path: Path, config: dict[str, Any], layers: Mapping[str, Mapping[str, tuple[int, ...]]]) -> Path:
    """A legacy .h5: the config, and each layer's variables by name."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = list(layers)
        for layer, variables in layers.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{name}:0" for name in variables]
            for name, shape in variables.items():
                group[f"{layer}/{name}:0"] = np.arange(1, np.prod(shape) + 1, dtype="float32").reshape(shape)
    return path


def sequential(*layers: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    image = entry("InputLayer", "image", {"batch_shape": [None, 9, 9, 3]})
    return {"class_name": "Sequential", "config": {"name": "m", "layers": [image, *(entry(*each) for each in layers)]}}


def doubts(donor: Donor) -> list[str]:
    return [doubt.reason for doubt in donor.doubts]


def test_layers_of_one_name_are_doubted(tmp_path: Path) -> None:
    layers = {"dense": [(3, 2)], "dense_1": [(4, 2)]}
    with open_donor(weights(tmp_path / "a.weights.h5", layers, dense="x", dense_1="x"), keras=KerasConfig()) as donor:
        assert doubts(donor) == ["x: two layers of this name"]
        (doubt,) = donor.doubts
        assert (doubt.expected, doubt.remedy) == ("layers whose conversion is certain", CERTAIN)
        assert {name: info.shape for name, info in donor.infos.items()} == {"x.weight": (2, 3)}


CONV_NORM = {"conv2d": [(1, 1, 3, 4), (4,)], "batch_normalization": NORM}
FOLDED = {"conv2d": "a_conv", "batch_normalization": "a_bn"}


def test_a_bias_in_front_of_a_norm_is_taken_off_its_mean(tmp_path: Path) -> None:
    path = weights(tmp_path / "a.weights.h5", CONV_NORM, **FOLDED)
    with open_donor(path) as plain, open_donor(path, keras=KerasConfig(fold_bias=True)) as donor:
        assert list(donor.infos) == [name for name in plain.infos if name != "a_conv.bias"]
        mean = plain.read("a_bn.running_mean") - plain.read("a_conv.bias")
        assert torch.equal(donor.read("a_bn.running_mean"), mean)
        assert donor.remarks == [
            "a_bn.running_mean: running_mean − a_conv.bias, which is left out (exact)",
            "no model config: 0.001 taken as the epsilon of 1 batch-norms; donor.keras.epsilon=… says another",
        ]
        assert donor.infos["a_bn.running_var"].epsilon == 1e-3
        assert donor.doubts == []
    with open_donor(path, keras=KerasConfig(epsilon=0.01)) as donor:
        assert donor.infos["a_bn.running_var"].epsilon == 0.01
        assert donor.remarks == []


@pytest.mark.parametrize("names", [{"conv2d": "other", "batch_normalization": "a_bn"}, {}])
def test_a_bias_that_stands_in_front_of_no_norm_is_doubted_where_it_was_to_be_folded(tmp_path: Path, names) -> None:
    path = weights(tmp_path / "a.weights.h5", CONV_NORM, **names)
    with open_donor(path, keras=KerasConfig(fold_bias=True)) as donor:
        assert doubts(donor) == ["donor.keras.fold_bias: no convolution with a bias stands in front of a batch-norm"]


def test_a_bias_of_another_length_cannot_be_taken_off(tmp_path: Path) -> None:
    layers = {"conv2d": [(1, 1, 3, 5), (5,)], "batch_normalization": NORM}
    with open_donor(weights(tmp_path / "a.weights.h5", layers, **FOLDED), keras=KerasConfig(fold_bias=True)) as donor:
        assert doubts(donor)[0] == "a_bn: a running mean that a_conv.bias cannot be taken off"


def test_colours_are_turned_round_in_the_first_convolution_of_three(tmp_path: Path) -> None:
    layers = {"conv2d": [(1, 1, 3, 4)], "conv2d_1": [(1, 1, 4, 3)], "conv2d_2": [(1, 1, 3, 2)]}
    path = weights(tmp_path / "a.weights.h5", layers)
    with open_donor(path) as plain, open_donor(path, keras=KerasConfig(input="bgr")) as donor:
        assert torch.equal(donor.read("conv2d.weight"), plain.read("conv2d.weight").flip(1))
        assert torch.equal(donor.read("conv2d_2.weight"), plain.read("conv2d_2.weight"))
        told = "conv2d.weight: input channels turned round, W[:, ::-1], so that it reads red, green, blue"
        assert told in donor.remarks
    grey = weights(tmp_path / "b.weights.h5", {"conv2d": [(1, 1, 1, 4)]})
    with open_donor(grey, keras=KerasConfig(input="bgr")) as donor:
        assert doubts(donor) == [
            "no convolution reads three channels that could be turned round; set donor.keras.input=rgb"
        ]


def test_what_cannot_be_told_stays_as_keras_has_it_and_is_doubted(tmp_path: Path) -> None:
    layers = {"odd": [(4,), (4,)], "attention": [(2, 3, 4, 5, 6, 7)], "norm": NORM}
    with open_donor(weights(tmp_path / "a.weights.h5", layers), keras=KerasConfig()) as donor:
        assert [reason.partition(":")[0] for reason in doubts(donor)] == ["attention", "odd"]
        assert doubts(donor)[1].startswith("odd: variables of shapes 4, 4 could be several classes; set donor.keras.")
        assert {name: info.shape for name, info in donor.infos.items()} == {
            "odd.0": (4,), "odd.1": (4,), "attention.0": (2, 3, 4, 5, 6, 7), "norm.weight": (4,), "norm.bias": (4,),
            "norm.running_mean": (4,), "norm.running_var": (4,),
        }  # fmt: skip
        assert donor.remarks == [
            "of classes without a counterpart, left as Keras has them: attention, odd",
            "classes told by shapes alone: norm batch_normalization",
            "no model config: 0.001 taken as the epsilon of 1 batch-norms; donor.keras.epsilon=… says another",
        ]


@pytest.mark.parametrize(("written", "epsilon"), [(0.01, 0.01), (None, 1e-3)])
def test_the_config_says_a_norm_s_epsilon(tmp_path: Path, written: float | None, epsilon: float) -> None:
    config = {} if written is None else {"epsilon": written}
    norms = sequential(("BatchNormalization", "b", config), ("LayerNormalization", "l", config))
    names = ["gamma", "beta", "moving_mean", "moving_variance"]
    shapes = {"b": dict.fromkeys(names, (3,)), "l": dict.fromkeys(names[:2], (3,))}
    with open_donor(whole(tmp_path / "a.h5", norms, shapes), keras=KerasConfig()) as donor:
        carried = {name: info.epsilon for name, info in donor.infos.items() if info.epsilon is not None}
        assert carried == {"b.running_var": epsilon, "l.weight": epsilon}
        assert donor.remarks == [f"l: computed with epsilon {epsilon}; set it on the target's layer"]


@pytest.mark.parametrize("odd", [-1.0, 7.0, "x"])
def test_an_epsilon_that_cannot_be_is_doubted(tmp_path: Path, odd: object) -> None:
    norm = sequential(("LayerNormalization", "l", {"epsilon": odd}))
    shapes = {"l": {"gamma": (3,), "beta": (3,)}}
    with open_donor(whole(tmp_path / "a.h5", norm, shapes), keras=KerasConfig()) as donor:
        assert doubts(donor) == [f"l: an epsilon between 0 and 1, received {odd}"]
        assert list(donor.infos) == ["l.gamma", "l.beta"]


def test_rows_behind_a_flatten_are_asked_for_where_no_config_says(tmp_path: Path) -> None:
    layers = {"conv2d": [(3, 3, 3, 4)], "dense": [(36, 5), (5,)], "dense_1": [(5, 2), (2,)]}
    path = weights(tmp_path / "a.weights.h5", layers)
    with open_donor(path) as donor:
        assert doubts(donor) == [
            "dense: its 36 features may come from a Flatten, which the file does not say; set "
            "donor.keras.flatten={dense: "
            "CHANNELS} (of the flattened map; 0 where it was pooled)"
        ]
    told, pooled = (open_donor(path, keras=KerasConfig(flatten={"dense": count})) for count in (4, 0))
    with told, pooled:
        assert told.doubts == pooled.doubts == []
        turned = pooled.read("dense.weight").reshape(5, 9, 4).movedim(1, 2).reshape(5, 36)
        assert torch.equal(told.read("dense.weight"), turned)
    pooled_layers = {"conv2d": [(3, 3, 3, 4)], "dense": [(4, 5), (5,)]}
    with open_donor(weights(tmp_path / "b.weights.h5", pooled_layers)) as donor:
        assert donor.doubts == []


def test_a_list_of_names_that_keras_had_to_split_is_one(tmp_path: Path) -> None:
    path = whole(tmp_path / "a.h5", sequential(("Dense", "d", {}), ("Dense", "e", {})),
                 {"d": {"kernel": (3, 2)}, "e": {"kernel": (2, 4)}})  # fmt: skip
    with h5py.File(path, "a") as file:
        root = file["model_weights"]
        del root.attrs["layer_names"]
        root.attrs["layer_names0"], root.attrs["layer_names1"] = [b"d"], [b"e"]
    with open_donor(path) as donor:
        assert {name: info.shape for name, info in donor.infos.items()} == {"d.weight": (2, 3), "e.weight": (4, 2)}
        assert donor.read("d.weight").tolist() == [[1, 3, 5], [2, 4, 6]]


def test_names_of_earlier_keras_are_todays(tmp_path: Path) -> None:
    config = sequential(("Dense", "d", {}), ("BatchNormalization", "b", {}))
    shapes = {
        "d": {"d_W": (3, 2), "d_b": (2,)},
        "b": {"b_gamma": (2,), "b_beta": (2,), "b_running_mean": (2,), "b_running_std": (2,)},
    }
    with open_donor(whole(tmp_path / "a.h5", config, shapes)) as donor:
        assert list(donor.infos) == [
            "d.weight", "d.bias", "b.weight", "b.bias", "b.running_mean", "b.running_var",
        ]  # fmt: skip


def test_numbers_of_another_kind_are_read_or_left_out(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        file["layers/dense/vars/0"] = np.arange(6, dtype=">f4").reshape(3, 2)
        file["layers/dense/vars/1"] = np.arange(2, dtype="f2")
        half = torch.tensor([1.5, -2.0]).bfloat16()
        file["layers/p_re_lu/vars/0"] = half.view(torch.int16).numpy().view("V2")
        file["layers/p_re_lu/vars/0"].attrs["dtype"] = "bfloat16"
        file["layers/texts/vars/0"] = np.array([b"abc"])
    with open_donor(tmp_path / "a.weights.h5") as donor:
        kinds = {name: info.dtype for name, info in donor.infos.items()}
        assert kinds == {"dense.weight": "float32", "dense.bias": "float16", "p_re_lu.weight": "bfloat16"}
        assert donor.read("dense.weight").tolist() == [[0, 2, 4], [1, 3, 5]]
        assert donor.read("p_re_lu.weight").tolist() == [1.5, -2]
        assert donor.remarks == ["left out: 1 datasets that are no weights (layers/texts/vars/0, …)"]


def test_a_file_that_keras_did_not_write_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = [1.0]
    with pytest.raises(InputError) as caught:
        open_donor(tmp_path / "a.h5")
    assert str(caught.value) == (
        f"donor {tmp_path / 'a.h5'}: expected a Keras file (.keras, .weights.h5 or legacy .h5), received an "
        f"HDF5 file that "
        "Keras did not write; try: model.save(…)"
    )
