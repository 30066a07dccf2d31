"""The backbone for a Keras donor: its images as the donor saw them, its layers set as Keras' are."""

from __future__ import annotations

from dataclasses import fields, replace

from graft.config.choices import DonorKind
from graft.config.schema import BackboneConfig, DonorConfig, PreprocessConfig

BGR_MEAN = (0.48501961, 0.45795686, 0.40760392)  # (123.68, 116.779, 103.939) / 255, red first
BGR_STD = (0.00392157,) * 3  # 1 / 255: Keras takes the mean off and divides by nothing


_ACCEPTED = {"stride": "strides", "padding": "padding", "border": "averaging"}
"""A setting of backbone.alter, and the difference that stays without it, as donor.keras.accept calls that."""


def backbone_for_donor(
    backbone: BackboneConfig, donor: DonorConfig, own: PreprocessConfig | None = None
) -> BackboneConfig:
    """The backbone with `published.preprocess` and `alter` filled for donor=keras; what the user gave stays.

    Args:
        own: What the donor's file says of its images itself, which goes before what Keras usually does.
    """
    if donor.kind is not DonorKind.keras:
        return backbone
    usual = backbone.keras.preprocess
    if donor.keras.input == "bgr":
        usual = PreprocessConfig(mean=list(BGR_MEAN), std=list(BGR_STD))
    filled = PreprocessConfig()
    for name in (each.name for each in fields(PreprocessConfig)):
        values = [getattr(each, name) for each in (backbone.published.preprocess, own, usual) if each is not None]
        setattr(filled, name, next((value for value in values if value is not None), None))
    plain = set(donor.keras.accept)
    altered = {
        glob: settings
        for glob, settings in backbone.keras.alter.items()
        if not plain & {_ACCEPTED.get(name, "") for name in settings}
    }
    return replace(backbone, alter=altered | backbone.alter, published=replace(backbone.published, preprocess=filled))
