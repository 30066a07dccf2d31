"""Test-time augmentation: several views of an image whose predictions are averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from graft.config.choices import Resize
from graft.config.faults import InputError
from graft.results.model import OpenedModel, Preparation

OTHER_CROP = 0.875
"""The second crop for models that take the whole image: the crop that most of torchvision's and timm's models were
trained with."""

Views = Callable[[str], torch.Tensor]
"""Maps an image's path to its views [V, C, S, S]. The first is the image as the model takes it."""


def plain(opened: OpenedModel) -> Views:
    """Only the image as the model takes it."""
    return lambda name: opened.preprocess(name)[None]


def flips(opened: OpenedModel) -> Views:
    """The image and its mirror image."""
    return lambda name: _with_mirror_images(opened.preprocess(name)[None])


def crops(opened: OpenedModel) -> Views:
    """The model's centre crop, and the whole image.

    Raises:
        InputError: the model does not crop its images.
    """
    if (resize := opened.preprocess.settings.resize) != Resize.crop.value:
        raise InputError(
            f"--tta: expected none or flips for a model of data.resize={resize}, which crops nothing, received crops"
        )
    both = (opened.preprocess, _other(opened))
    return lambda name: torch.stack([preparation(name) for preparation in both])


def flips_and_crops(opened: OpenedModel) -> Views:
    """Both crops, and their mirror images."""
    of_crops = crops(opened)
    return lambda name: _with_mirror_images(of_crops(name))


TTA: Mapping[str, Callable[[OpenedModel], Views]] = {
    "none": plain,
    "flips": flips,
    "crops": crops,
    "flips+crops": flips_and_crops,
}


def _with_mirror_images(views_VCSS: torch.Tensor) -> torch.Tensor:
    return torch.cat([views_VCSS, views_VCSS.flip(-1)])


def _other(opened: OpenedModel) -> Preparation:
    settings = opened.preprocess.settings
    return Preparation(replace(settings, crop_fraction=1.0 if settings.crop_fraction < 1 else OTHER_CROP))
