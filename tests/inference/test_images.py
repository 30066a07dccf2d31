"""`graft.load(run).predict` and `.embed`: images in any form give the same answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import graft
from graft.config.choices import HeadKind, Library, TaskKind
from graft.config.faults import InputError
from graft.config.schema import HeadConfig
from graft.inference.classify import predict
from graft.inference.load import open_model


@pytest.fixture(scope="module")
def model(timm_model: Path) -> Any:
    return graft.load(timm_model)


FORMS: dict[str, Callable[[Path, Any], Any]] = {
    "name": lambda path, model: str(path),
    "path": lambda path, model: path,
    "PIL image": lambda path, model: Image.open(path),
    "bytes": lambda path, model: path.read_bytes(),
    "HWC": lambda path, model: np.array(Image.open(path)),
    "CHW": lambda path, model: torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1),
    "preprocessed": lambda path, model: model.preprocess(path),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_an_image_in_any_form_has_the_prediction_of_its_file(
    form: Callable[[Path, Any], Any], model: Any, timm_model: Path, pictures: Path
) -> None:
    path = pictures / "0.png"
    (expected,) = predict(timm_model, [str(path)])
    prediction = model.predict(form(path, model))
    assert prediction.label == expected.top[0][0]
    assert prediction.probability == pytest.approx(expected.top[0][1], abs=1e-6)
    assert prediction.probabilities == pytest.approx(dict(zip(model.classes, expected.values, strict=True)), abs=1e-6)
    assert torch.allclose(model.embed(form(path, model)), model.embed(path), atol=1e-6)


def test_batches_folders_and_lists_of_lists_give_a_list(model: Any, pictures: Path) -> None:
    batch = np.stack([np.array(Image.open(pictures / f"{number}.png")) for number in range(3)])
    by_name = model.predict([pictures / "0.png", pictures / "1.png", pictures / "2.png"])
    assert [each.source for each in by_name] == [str(pictures / f"{number}.png") for number in range(3)]
    for several in (batch, torch.from_numpy(batch).permute(0, 3, 1, 2), [list(batch)], [batch[:2], batch[2]]):
        shares = [each.probability for each in model.predict(several)]
        assert shares == pytest.approx([each.probability for each in by_name], abs=1e-6)
        assert model.embed(several).shape == (3, 256)
    assert [Path(each.source).name for each in model.predict(str(pictures))] == [f"{number}.png" for number in range(6)]
    assert len(model.predict(f"{pictures}/*.png")) == 4
    assert isinstance(model.predict(batch[:1]), list)


def test_grey_of_two_axes_is_three_times_the_same(model: Any) -> None:
    grey = np.arange(64 * 70, dtype=np.uint32).reshape(64, 70).astype(np.uint8)
    colour = model.predict(np.repeat(grey[..., None], 3, axis=2))
    assert model.predict(grey).probabilities == colour.probabilities
    assert model.predict(torch.from_numpy(grey)).probabilities == colour.probabilities


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3)), r"array \(expected uint8 or uint16 \[H, W\] or \[H, W, C\], received float64"),
        (np.zeros((8, 8, 5), np.uint8), r"expected 3 channels \(data\.channels\), received 5"),
        (torch.zeros(3, 8, 8), r"expected \[3, 64, 64\] of a tensor of floats, .* received \[3, 8, 8\]; try uint8"),
        (b"no image", r"bytes \(not an image of a known kind"),
        (7, "expected paths, PIL images, bytes, numpy arrays, tensors, or a list of these, received a int"),
        ([], "expected at least one image, received none"),
        (["nowhere.png", "no.jpg"], r"nowhere\.png \(no such file\); no\.jpg \(no such file\)"),
    ],
)
def test_what_is_no_image_is_an_input_error(model: Any, image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.predict(image)


def test_the_home_folder_is_meant_by_a_tilde(
    timm_model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(timm_model, tmp_path / "run")
    shutil.copy(pictures / "0.png", tmp_path / "0.png")
    model: Any = graft.load("~/run")
    assert model.predict("~/0.png").source == str(tmp_path / "0.png")
    assert model.embed(["~/0.png", tmp_path / "0.png"]).shape == (2, 256)
    assert model.preprocess("~/0.png").shape == (3, 64, 64)


def test_embeddings_are_what_the_head_turns_into_answers(
    tmp_path: Path, build_small: Any, export_network: Any, pictures: Path
) -> None:
    for number, kind in enumerate((HeadKind.linear, HeadKind.stages)):
        folder = export_network(tmp_path / str(number), build_small(Library.timm, "test_resnet", HeadConfig(kind=kind)))
        model: Any = graft.load(folder)
        features = model.embed(pictures)
        head = model.get_submodule(open_model(folder).record["head"]["at"])
        with torch.inference_mode():
            outputs = model(torch.stack([model.preprocess(each.source) for each in model.predict(pictures)]))
            assert torch.allclose(head(features), outputs, atol=1e-4)


def test_training_mode_and_the_networks_own_methods_stay(
    timm_model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = graft.load(timm_model)
    expected = model.predict(pictures / "0.png").probabilities
    model.train()
    assert model.predict(pictures / "0.png").probabilities == expected
    assert model.training
    monkeypatch.setattr(type(model), "embed", lambda self: "its own", raising=False)
    assert graft.load(timm_model).embed() == "its own"


@pytest.mark.parametrize("kind", [TaskKind.multi_label, TaskKind.regression])
def test_several_labels_and_numbers(
    kind: TaskKind, tmp_path: Path, build_small: Any, export_network: Any, pictures: Path
) -> None:
    scale = {"mean": [0.0] * 3, "std": [1.0] * 3} if kind is TaskKind.regression else {}
    folder = export_network(tmp_path, build_small(Library.timm, "test_resnet"), task={"kind": kind.value, **scale})
    model: Any = graft.load(folder)
    prediction = model.predict(pictures / "0.png")
    if kind is TaskKind.regression:
        assert list(prediction.values) == ["ant", "bee", "cicada"]
        assert (prediction.label, prediction.labels) == (None, ())
    else:
        every = model.predict(pictures / "0.png", threshold=0.0)
        assert set(every.labels) == {"ant", "bee", "cicada"}
        assert prediction.labels == tuple(name for name in every.labels if every.probabilities[name] > 0.5)
