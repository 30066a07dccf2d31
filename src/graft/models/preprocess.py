"""The preprocessing of images for a network, as its donor was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graft.config.choices import Resize
from graft.config.faults import InputError
from graft.config.schema import BackboneConfig, Library
from graft.models.backbones import timm_cfg, torchvision_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Published together with an input layer that turns ImageNet's normalisation into (value - 0.5) / 0.5. graft builds
# these two without that layer and normalises so from the start: the same function, for any number of channels.
NORMALISED_INSIDE = ("googlenet", "inception_v3")
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Resizes the shorter edge to image_size / crop_fraction, crops the centre, scales to [0, 1] and normalises. With
    another `resize` than crop, the whole image is resized to the square, or onto it with borders."""

    image_size: int
    """Side of the square network input, in pixels."""
    crop_fraction: float
    interpolation: str
    """bilinear, bicubic or nearest."""
    mean: tuple[float, ...]
    """Mean and standard deviation per channel, for values from 0 to 1."""
    std: tuple[float, ...]
    channels: int = 3
    reduced_jpeg: bool = False
    """Whether much larger JPEGs are decoded at a half, a quarter or an eighth of their size (`data.transforms`)."""
    resize: str = "crop"
    """How an image becomes a square: a name of `data.resize`."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Preprocess:
        """A Preprocess from the result of dataclasses.asdict, also after a round trip through JSON."""
        values = dict(record)
        return cls(mean=tuple(values.pop("mean")), std=tuple(values.pop("std")), **values)


USUAL = Preprocess(image_size=224, crop_fraction=0.875, interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD)


def preprocess_for(
    backbone: BackboneConfig,
    *,
    channels: int = 3,
    image_size: int | None = None,
    crop_fraction: float | None = None,
    resize: Resize = Resize.crop,
    reduced_jpeg: bool = False,
) -> Preprocess:
    """The donor's preprocessing (the backbone's YAML over the library's values), for the given channels and size.

    Args:
        resize: how an image becomes a square; only Resize.crop crops.

    Raises:
        InputError: mean or std has another number of channels, or the interpolation is unknown.
    """
    published, own = published_preprocess(backbone), backbone.published.preprocess
    mean = tuple(own.mean) if own.mean is not None else published.mean
    std = tuple(own.std) if own.std is not None else published.std
    for key, values in (("mean", mean), ("std", std)):
        if len(values) not in (3, channels):
            raise InputError(
                f"backbone.published.preprocess.{key}: expected 3 values, or one for each of {channels} channels, "
                f"received {list(values)}"
            )
    interpolation = own.interpolation or published.interpolation
    if interpolation not in INTERPOLATIONS:
        raise InputError(
            f"backbone.published.preprocess.interpolation: expected {', '.join(INTERPOLATIONS)}, "
            f"received {interpolation!r}"
        )
    return Preprocess(
        image_size=image_size or own.image_size or published.image_size,
        crop_fraction=(crop_fraction or own.crop_fraction or published.crop_fraction if resize is Resize.crop else 1.0),
        interpolation=interpolation,
        mean=for_channels(mean, channels),
        std=for_channels(std, channels),
        channels=channels,
        reduced_jpeg=reduced_jpeg,
        resize=resize.value,
    )


def for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Means or standard deviations for another number of channels.

    One channel gets the average, because a grey image has the same value in each colour. With more than three, channel
    n gets the value of colour n mod 3, in the same way as the weights of the first layer are repeated.
    """
    if len(values) == channels:
        return tuple(float(value) for value in values)
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(float(values[channel % len(values)]) for channel in range(channels))


def published_preprocess(backbone: BackboneConfig) -> Preprocess:
    """The library's preprocessing for its published weights; ImageNet's usual preprocessing if the library has none.

    A user's own backbone has none either, and its image size is always given.
    """
    if backbone.library is Library.custom:
        return USUAL
    if backbone.library is Library.torchvision:
        return _of_torchvision(backbone)
    cfg = timm_cfg(backbone.name, backbone.published.weights)
    if cfg is None:
        return USUAL
    return Preprocess(
        image_size=int(cfg.input_size[-1]),
        crop_fraction=float(cfg.crop_pct),
        interpolation=cfg.interpolation if cfg.interpolation in INTERPOLATIONS else "bicubic",
        mean=for_channels(cfg.mean, 3),
        std=for_channels(cfg.std, 3),
    )


def _of_torchvision(backbone: BackboneConfig) -> Preprocess:
    weights = torchvision_weights(backbone.name, backbone.published.weights)
    if weights is None:
        return USUAL
    transforms = weights.transforms()
    size, edge = transforms.crop_size[0], transforms.resize_size[0]
    inside = backbone.name in NORMALISED_INSIDE
    return Preprocess(
        image_size=size,
        crop_fraction=size / edge,
        interpolation=transforms.interpolation.value,
        mean=(0.5, 0.5, 0.5) if inside else tuple(transforms.mean),
        std=(0.5, 0.5, 0.5) if inside else tuple(transforms.std),
    )
