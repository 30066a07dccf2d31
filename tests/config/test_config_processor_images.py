"""preprocessor_config.json beside a donor's weights, in graft's words; answered before torch is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graft.config.choices import DonorKind
from graft.config.faults import InputError
from graft.config.processor_images import fill_from_processor
from graft.config.schema import BackboneConfig, Config, DonorConfig, PreprocessConfig

NORMAL: dict[str, Any] = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.2, 0.1]}


def filled(record: Any, folder: Path, own: PreprocessConfig | None = None, file: str = "") -> PreprocessConfig:
    text = record if isinstance(record, str) else json.dumps(record)
    (folder / "preprocessor_config.json").write_text(text)
    config = Config(backbone=BackboneConfig(), donor=DonorConfig(kind=DonorKind.file, path=str(folder / file)))
    config.backbone.published.preprocess = own or PreprocessConfig()
    fill_from_processor(config.donor, config.backbone.published.preprocess)
    return config.backbone.published.preprocess


SIZES: dict[str, tuple[dict[str, Any], tuple[int | None, float | None]]] = {
    "a square without a crop (ViT)": ({"size": {"height": 384, "width": 384}}, (384, 1.0)),
    "a number, as old files have it": ({"size": 224}, (224, 1.0)),
    "a crop of a square (DeiT)": (
        {"size": {"height": 256, "width": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
        (224, 0.875),
    ),
    "a crop of the shortest edge (DINOv2)": (
        {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224},
        (224, 0.875),
    ),
    "a crop that is not made": ({"size": 224, "do_center_crop": False, "crop_size": 112}, (224, 1.0)),
    "ConvNeXt below 384": ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (224, 0.875)),
    "ConvNeXt at 384": ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, 1.0)),
    "none": ({}, (None, None)),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_and_crops(case: str, tmp_path: Path) -> None:
    record, expected = SIZES[case]
    found = filled({**NORMAL, **record}, tmp_path)
    assert (found.image_size, found.crop_fraction) == expected


SCALES: dict[str, tuple[dict[str, Any], list[float] | None, list[float] | None]] = {
    "as usual": (NORMAL, [0.5, 0.4, 0.3], [0.25, 0.2, 0.1]),
    "the usual factor": ({**NORMAL, "rescale_factor": 0.00392156862745098}, [0.5, 0.4, 0.3], [0.25, 0.2, 0.1]),
    "values to 255": (
        {"image_mean": [127.5] * 3, "image_std": [51.0] * 3, "do_rescale": False}, [0.5] * 3, [0.2] * 3,
    ),
    "another factor": (
        {"image_mean": [1.0] * 3, "image_std": [1.0] * 3, "rescale_factor": 2 / 255}, [0.5] * 3, [0.5] * 3,
    ),
    "no normalisation": ({**NORMAL, "do_normalize": False}, [0.0] * 3, [1.0] * 3),
    "nothing said": ({}, None, None),
}  # fmt: skip


@pytest.mark.parametrize("case", SCALES)
def test_mean_and_std_are_those_of_values_from_0_to_1(case: str, tmp_path: Path) -> None:
    record, mean, std = SCALES[case]
    found = filled(record, tmp_path)
    assert found.mean == (mean if mean is None else pytest.approx(mean))
    assert found.std == (std if std is None else pytest.approx(std))


@pytest.mark.parametrize(("number", "word"), [(0, "nearest"), (2, "bilinear"), (3, "bicubic"), (None, None)])
def test_interpolations_by_pillows_numbers(number: int | None, word: str | None, tmp_path: Path) -> None:
    assert filled({"resample": number}, tmp_path).interpolation == word


def test_what_the_user_gave_stays(tmp_path: Path) -> None:
    own = PreprocessConfig(mean=[0.1, 0.1, 0.1], interpolation="bilinear")
    found = filled({**NORMAL, "resample": 1, "size": 64}, tmp_path, own)
    assert (found.mean, found.std, found.interpolation, found.image_size) == (
        [0.1] * 3,
        [0.25, 0.2, 0.1],
        "bilinear",
        64,
    )


@pytest.mark.parametrize(("file", "is_read"), [("model.safetensors", True), ("mine.safetensors", False)])
def test_it_belongs_to_a_file_that_has_transformers_name(file: str, is_read: bool, tmp_path: Path) -> None:
    (tmp_path / file).touch()
    assert (filled(NORMAL, tmp_path, file=file).mean is not None) == is_read


def test_other_donors_and_folders_without_it_are_as_they_were(tmp_path: Path) -> None:
    config = Config(backbone=BackboneConfig(), donor=DonorConfig(kind=DonorKind.file, path=str(tmp_path)))
    fill_from_processor(config.donor, config.backbone.published.preprocess)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(NORMAL))
    config.donor.kind = DonorKind.run
    fill_from_processor(config.donor, config.backbone.published.preprocess)
    assert config.backbone.published.preprocess == PreprocessConfig()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "beside the weights as a JSON object"),
        ("[1]", "JSON of another kind, list"),
        ("[" * 100_000, "beside the weights as a JSON object"),
        ('{"a": "' + "x" * 2**20 + '"}', "more than 1048576 bytes"),
        ({**NORMAL, "resample": 1}, r"resample .* as 0, 2 or 3 .* received '1'; try backbone.published.preprocess"),
        ({**NORMAL, "resample": [3]}, "resample"),
        ({**NORMAL, "image_std": [0.1, 0.0, 0.1]}, "image_std .* as three numbers above 0"),
        ({**NORMAL, "image_mean": [0.5]}, "image_mean .* as three numbers"),
        ({"image_mean": [0.5] * 3}, "image_std .* received 'None'"),
        ('{"image_mean": [NaN, 0, 0], "image_std": [1, 1, 1]}', "image_mean"),
        ({**NORMAL, "image_mean": [10**400, 0, 0]}, "image_mean"),
        ({**NORMAL, "rescale_factor": 0}, "rescale_factor .* as a number above 0"),
        ({**NORMAL, "size": {"height": "224"}}, "size .* as a side in pixels"),
        ({**NORMAL, "size": -1}, "size .* as a side in pixels"),
        ({**NORMAL, "size": 224, "crop_pct": 2}, "crop_pct .* at most 1"),
    ],
)
def test_damage_is_answered(record: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        filled(record, tmp_path)


def test_it_is_read_without_torch() -> None:
    code = "import sys; import graft.config.processor_images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
