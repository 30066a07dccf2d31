"""How a Keras donor saw its images: as Keras feeds its applications, unless the user says otherwise."""

from __future__ import annotations

from dataclasses import fields

from graft.config.choices import DonorKind
from graft.config.schema import Config, PreprocessConfig

BGR_MEAN = (0.48501961, 0.45795686, 0.40760392)  # (123.68, 116.779, 103.939) / 255, red first
BGR_STD = (0.00392157,) * 3  # 1 / 255: Keras takes the mean off and divides by nothing


def preprocess_of_donor(config: Config) -> PreprocessConfig:
    """`backbone.published.preprocess`, filled for donor=keras from what Keras does; what the user gave stays."""
    own = config.backbone.published.preprocess
    if config.donor.kind is not DonorKind.keras:
        return own
    theirs = config.backbone.keras.preprocess
    if config.donor.keras.input == "bgr":
        theirs = PreprocessConfig(mean=list(BGR_MEAN), std=list(BGR_STD))
    names = [each.name for each in fields(PreprocessConfig)]
    given = {name: getattr(own, name) for name in names}
    return PreprocessConfig(
        **{name: getattr(theirs, name) if value is None else value for name, value in given.items()}
    )
