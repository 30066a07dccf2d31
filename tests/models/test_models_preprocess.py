"""Preprocessing: as the donor saw its images."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from graft.config.faults import InputError
from graft.config.schema import BackboneConfig, Library, PreprocessConfig, PublishedConfig
from graft.models.preprocess import Preprocess, for_channels, preprocess_for


def config(library: Library, name: str, weights: str | None = None, **own: Any) -> BackboneConfig:
    published = PublishedConfig(weights=weights, preprocess=PreprocessConfig(**own))
    return BackboneConfig(library=library, name=name, published=published)


def test_torchvision_s_weights_say_how_they_saw_images() -> None:
    assert preprocess_for(config(Library.torchvision, "resnet50")) == Preprocess(
        image_size=224,
        crop_fraction=224 / 232,
        interpolation="bilinear",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    first = preprocess_for(config(Library.torchvision, "resnet50", "IMAGENET1K_V1"))
    assert first.crop_fraction == 224 / 256
    assert preprocess_for(config(Library.torchvision, "maxvit_t")).interpolation == "bicubic"


def test_timm_s_weights_say_how_they_saw_images() -> None:
    assert preprocess_for(config(Library.timm, "tf_efficientnet_lite0")) == Preprocess(
        image_size=224, crop_fraction=0.875, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )


def test_the_yaml_has_the_last_word_and_a_wanted_size_before_it() -> None:
    own = config(Library.torchvision, "resnet18", mean=[0.1, 0.2, 0.3], interpolation="bicubic", image_size=96)
    assert preprocess_for(own).mean == (0.1, 0.2, 0.3)
    assert preprocess_for(own).std == (0.229, 0.224, 0.225)
    assert (preprocess_for(own).image_size, preprocess_for(own).interpolation) == (96, "bicubic")
    assert preprocess_for(own, image_size=64).image_size == 64


@pytest.mark.parametrize(
    ("channels", "values"),
    [(1, (2.0,)), (2, (1.0, 2.0)), (3, (1.0, 2.0, 3.0)), (4, (1.0, 2.0, 3.0, 1.0)), (6, (1.0, 2.0, 3.0) * 2)],
)
def test_mean_and_std_follow_the_channels(channels: int, values: tuple[float, ...]) -> None:
    assert for_channels((1.0, 2.0, 3.0), channels) == pytest.approx(values)


def test_values_for_exactly_these_channels_are_taken_as_they_are() -> None:
    own = config(Library.torchvision, "resnet18", mean=[0.1, 0.2, 0.3, 0.4], std=[1, 1, 1, 2])
    assert preprocess_for(own, channels=4).mean == (0.1, 0.2, 0.3, 0.4)
    with pytest.raises(InputError, match=r"preprocess\.mean: expected 3 values"):
        preprocess_for(own)


def test_an_unknown_interpolation_is_answered() -> None:
    with pytest.raises(InputError, match="bilinear, bicubic, nearest, received 'lanczos'"):
        preprocess_for(config(Library.torchvision, "resnet18", interpolation="lanczos"))


def test_a_record_survives_json() -> None:
    whole = preprocess_for(config(Library.torchvision, "resnet18"), channels=4)
    assert Preprocess.of(json.loads(json.dumps(asdict(whole)))) == whole
