"""How a Keras donor's images are taken to look, and that what the user says stays."""

from __future__ import annotations

from graft.config.choices import DonorKind
from graft.config.keras_donor import BGR_MEAN, BGR_STD, backbone_for_donor
from graft.config.schema import BackboneConfig, Config, PreprocessConfig


def config(kind: DonorKind, **keras: str) -> Config:
    made = Config()
    made.donor.kind = kind
    made.backbone.keras.preprocess = PreprocessConfig(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
    for name, value in keras.items():
        setattr(made.donor.keras, name, value)
    return made


def filled(config: Config) -> BackboneConfig:
    return backbone_for_donor(config.backbone, config.donor)


def test_a_keras_donor_brings_its_own_mean() -> None:
    found = filled(config(DonorKind.keras)).published.preprocess
    assert (found.mean, found.std, found.interpolation) == ([0.5] * 3, [0.5] * 3, None)


def test_one_of_blue_green_red_brings_keras_mean_of_that() -> None:
    found = filled(config(DonorKind.keras, input="bgr")).published.preprocess
    assert (found.mean, found.std) == (list(BGR_MEAN), list(BGR_STD))
    assert [round(value * 255, 3) for value in BGR_MEAN] == [123.68, 116.779, 103.939]


def test_what_the_user_says_stays() -> None:
    given = config(DonorKind.keras)
    given.backbone.published.preprocess = PreprocessConfig(mean=[0.1, 0.2, 0.3])
    found = backbone_for_donor(given.backbone, given.donor).published.preprocess
    assert (found.mean, found.std) == ([0.1, 0.2, 0.3], [0.5] * 3)


def test_other_donors_are_not_concerned() -> None:
    assert filled(config(DonorKind.file)).published.preprocess.mean is None


def test_what_the_file_says_goes_before_keras_usual_and_behind_the_user() -> None:
    given = config(DonorKind.keras)
    given.backbone.published.preprocess = PreprocessConfig(mean=[0.1, 0.2, 0.3])
    own = PreprocessConfig(mean=[0.4, 0.4, 0.4], std=[1.0, 1.0, 1.0])
    found = backbone_for_donor(given.backbone, given.donor, own).published.preprocess
    assert (found.mean, found.std) == ([0.1, 0.2, 0.3], [1.0, 1.0, 1.0])
    assert given.backbone.published.preprocess.std is None  # the config stays as it was composed
