"""The graph that takes pictures as they are: the same pixels as the preprocessing, the same answers as the model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graft.commands.cli import dispatch
from graft.config.faults import InputError, RunFailed
from graft.config.schema import HeadConfig, HeadKind, Library
from graft.data.transforms import eval_transform
from graft.inference.from_pixels import Averaged, FromPixels, Squares, example_pictures
from graft.inference.load import open_model
from graft.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from graft.results.agree import check_same_pictures
from graft.results.export import graph_metadata

PREPROCESS = Preprocess(
    image_size=64, crop_fraction=0.875, interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD
)
SHAPES = [(100, 231), (231, 100), (40, 37), (64, 64), (73, 73), (75, 301), (512, 384), (3, 500), (2, 2)]


def pictures(channels: int = 3) -> list[torch.Tensor]:
    seeded = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (*shape, channels), generator=seeded, dtype=torch.uint8) for shape in SHAPES]


def levels_apart(preprocess: Preprocess, picture: torch.Tensor) -> torch.Tensor:
    expected = eval_transform(preprocess)(picture.permute(2, 0, 1))
    std = torch.tensor(preprocess.std).view(-1, 1, 1)
    return ((Squares(preprocess)(picture) - expected) * std * 255).abs()


@pytest.mark.parametrize("resize", ["crop", "squash", "letterbox", "pad"])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_every_pixel_is_that_of_the_preprocessing(resize: str, interpolation: str) -> None:
    for picture in pictures():
        apart = levels_apart(replace(PREPROCESS, resize=resize, interpolation=interpolation), picture)
        assert apart.max() < 0.01, picture.shape


@pytest.mark.parametrize("resize", ["crop", "squash", "letterbox", "pad"])
def test_cubic_resizing_differs_by_the_rounding_of_the_processor_at_most(resize: str) -> None:
    """torch rounds weights to 15 bits on processors with AVX2 and not on others, so one grey level may differ."""
    for picture in pictures():
        apart = levels_apart(replace(PREPROCESS, resize=resize), picture)
        assert apart.max() < 2.01, picture.shape
        assert (apart > 0.5).float().mean() < 0.02, picture.shape


def test_other_fractions_and_one_channel() -> None:
    for fraction in (0.5, 1.0):
        settings = replace(
            PREPROCESS, crop_fraction=fraction, interpolation="bilinear", mean=(0.4,), std=(0.2,), channels=1
        )
        assert all(levels_apart(settings, picture).max() < 0.01 for picture in pictures(1))


@pytest.fixture
def model(build_small: Any, export_network: Any, tmp_path: Path) -> Path:
    return export_network(tmp_path / "model", build_small(Library.timm, "test_efficientnet"))


def test_probabilities_are_calibrated_and_a_difference_is_refused(model: Path) -> None:
    record = json.loads((model / "model.json").read_text())
    record["calibration"] = {"temperature": 2.0, "images": 10, "loss": 1.0, "calibrated_loss": 0.9}
    (model / "model.json").write_text(json.dumps(record))
    opened = open_model(model)
    graph = FromPixels(opened).eval()
    with torch.no_grad():
        for picture in example_pictures(opened):
            logits = opened.module(opened.preprocess(picture.permute(2, 0, 1))[None])
            torch.testing.assert_close(graph(picture), (logits / 2).softmax(1)[0], atol=1e-4, rtol=0)
    examples = example_pictures(opened)
    check_same_pictures([opened], graph, examples, "onnx")
    with pytest.raises(RunFailed, match=r"a difference of .* for a picture of .* pixels; nothing was written"):
        check_same_pictures([opened], lambda picture: graph(picture) + 0.01, examples, "onnx")


def test_answers_of_several_models_are_averaged(
    model: Path, build_small: Any, export_network: Any, tmp_path: Path
) -> None:
    first = open_model(model)
    network = build_small(Library.timm, "test_resnet")
    second = open_model(export_network(tmp_path / "other", network))
    graph = Averaged([first, second]).eval()
    with torch.no_grad():
        for picture in example_pictures(first):
            expected = (FromPixels(first).eval()(picture) + FromPixels(second).eval()(picture)) / 2
            torch.testing.assert_close(graph(picture), expected)
            assert (graph(picture) - FromPixels(first).eval()(picture)).abs().max() > 0
    check_same_pictures([first, second], graph, example_pictures(first), "onnx")
    texts = graph_metadata([first.record, second.record])
    hashes = [opened.record["weights"]["sha256"] for opened in (first, second)]
    assert (json.loads(texts["weights_sha256"]), "metrics" in texts) == (hashes, False)


def test_models_that_cannot_be_averaged_are_refused(model: Path, tmp_path: Path) -> None:
    words = ["export", str(model), str(model)]
    with pytest.raises(InputError, match="MODEL: expected one with --format timm, received 2; try --format onnx or"):
        dispatch([*words, "--format", "timm"])
    with pytest.raises(InputError, match="MODEL: expected one with --format onnx --logits, received 2"):
        dispatch([*words, "--format", "onnx", "--logits"])
    other = shutil.copytree(model, tmp_path / "other")
    record = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps({**record, "classes": ["a", "b", "c"]}))
    with pytest.raises(
        InputError, match=r"other: expected the classes of .*model, \('ant', 'bee', 'cicada'\), received"
    ):
        dispatch(["export", str(model), str(other), "--format", "onnx"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [HeadKind.linear, HeadKind.stages])
@pytest.mark.parametrize("name", ["onnx", "torch-export"])
def test_an_export_takes_pictures_of_any_size(
    kind: HeadKind, name: str, build_small: Any, export_network: Any, tmp_path: Path
) -> None:
    folder = export_network(tmp_path / "model", build_small(Library.timm, "test_efficientnet", HeadConfig(kind=kind)))
    path = tmp_path / f"model.{name}"
    code = "import sys; from graft.commands.cli import main; sys.exit(main())"  # the exporter warns a lot
    words = [sys.executable, "-c", code, "export", str(folder), "--format", name, "--output", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    opened = open_model(folder)
    graph = FromPixels(opened).eval()
    if name == "onnx":
        import onnx
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        entries = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert json.loads(entries["classes"]) == ["ant", "bee", "cicada"]
        assert json.loads(entries["preprocess"])["image_size"] == 64
        assert json.loads(entries["weights_sha256"]) == opened.record["weights"]["sha256"]

    for picture in pictures():
        with torch.no_grad():
            expected = graph(picture).numpy()
            if name == "onnx":
                answers = session.run(["probabilities"], {"pixels": picture.numpy()})[0]
            else:
                answers = torch.export.load(path).module()(picture).numpy()
        np.testing.assert_allclose(answers, expected, atol=1e-5)
        assert answers.sum() == pytest.approx(1, abs=1e-5)
