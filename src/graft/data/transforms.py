"""Transforms a uint8 image [C, H, W] to the network's input: float32 [C, S, S], with the donor's preprocessing.

All random numbers are drawn from torch's CPU generator, which the dataset seeds for each sample (law 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torchvision.transforms import InterpolationMode, v2

from graft.config.choices import Resize
from graft.config.faults import InputError, nearest
from graft.config.schema_images import AugmentConfig
from graft.data.own_augmentation import OwnAugmentation

if TYPE_CHECKING:
    from graft.models.preprocess import Preprocess

Step = Callable[[torch.Tensor], torch.Tensor]
POLICIES: dict[str, Callable[[], Step]] = {
    "trivial": v2.TrivialAugmentWide,
    "rand": v2.RandAugment,
    "augmix": v2.AugMix,
}
MARGIN = 2  # a JPEG is decoded at no less than this multiple of the size that it is resized to


class Transform:
    """Applies steps to a uint8 image [C, H, W], normalizes it, and applies further steps.

    Args:
        shape: (C, S, S), the shape after the steps in `before`.
        before: steps on the uint8 image.
        after: steps on the normalized image, which they change in place.
    """

    def __init__(
        self, shape: tuple[int, int, int], before: Sequence[Step], normalize: Normalize, after: Sequence[Step] = ()
    ) -> None:
        self.shape, self.before, self.normalize, self.after = shape, before, normalize, after

    def __call__(self, image_CHW: torch.Tensor, out_CSS: torch.Tensor | None = None) -> torch.Tensor:
        """The transformed image, float32 [C, S, S].

        Args:
            out_CSS: a tensor to write to, so that a batch can be filled without a copy.
        """
        for step in self.before:
            image_CHW = step(image_CHW)
        out_CSS = torch.empty(self.shape) if out_CSS is None else out_CSS
        image_CSS = self.normalize(image_CHW, out_CSS)
        for step in self.after:
            image_CSS = step(image_CSS)
        return image_CSS


def eval_transform(preprocess: Preprocess) -> Transform:
    """Resizes the shorter edge, crops the centre, scales to 0 … 1 and normalizes, as torchvision and timm evaluate.

    With another `resize` than crop, the whole image becomes the square.
    Resizing is antialiased and rounds to whole grey levels, as in Pillow.
    """
    return Transform(_shape(preprocess), _to_square(preprocess), _normalize(preprocess))


def train_transform(augment: AugmentConfig, preprocess: Preprocess) -> Transform:
    """The evaluation transform with the augmentation of the config.

    Without `crop_scale`, the image is resized and cropped exactly as in evaluation. With it, a random part of the image
    is resized to the whole square. It has that share of the area, and an aspect ratio from 3:4 to 4:3.

    Rotation leaves black corners, which become smaller if the centre is cropped afterwards. Erased areas get the mean.

    Raises:
        InputError: an option is out of range, or colour jitter is on and the images are neither grey nor RGB.
    """
    _check(augment, preprocess)
    rotation = (
        [v2.RandomRotation([-augment.rotate, augment.rotate], InterpolationMode.BILINEAR)] if augment.rotate else []
    )
    steps: list[Step]
    if augment.crop_scale is None:
        first, *others = _to_square(preprocess)
        steps = [first, *rotation, *others]
    else:
        scale = (augment.crop_scale[0], augment.crop_scale[1])
        edge = preprocess.image_size
        part = v2.RandomResizedCrop(edge, scale)
        steps = [partial(_resized_part, part=part, edge=edge, mode=interpolation(preprocess)), *rotation]
    if augment.hflip:
        steps.append(v2.RandomHorizontalFlip(augment.hflip))
    if augment.vflip:
        steps.append(v2.RandomVerticalFlip(augment.vflip))
    if augment.quarter_turns:
        steps.append(quarter_turns)
    if augment.jitter:
        steps.append(v2.ColorJitter(brightness=augment.jitter, contrast=augment.jitter))
    if augment.policy != "none":
        steps.append(POLICIES[augment.policy]())
    if augment.target is not None:
        steps.append(OwnAugmentation(augment.target, augment.kwargs))
    after = [v2.RandomErasing(augment.erase, inplace=True)] if augment.erase else []
    return Transform(_shape(preprocess), steps, _normalize(preprocess), after)


def resized_edge(preprocess: Preprocess) -> int:
    """The length in pixels to which the shorter edge is resized before the centre crop."""
    return math.floor(preprocess.image_size / preprocess.crop_fraction + 1e-4)


def jpeg_edge(preprocess: Preprocess, crop_scale: Sequence[float] | None = None) -> int | None:
    """The minimum length of a JPEG's shorter edge after reduced decoding; None: JPEGs are not reduced.

    The part of the image that is resized must be at least `MARGIN` times as long as the result. With `crop_scale`, this
    holds for the smallest part: with an aspect ratio of 3:4, its shorter side is √(¾ · share) of the image's.
    """
    if not preprocess.reduced_jpeg:
        return None
    if crop_scale is None:
        return MARGIN * resized_edge(preprocess)
    return math.ceil(MARGIN * preprocess.image_size / math.sqrt(0.75 * crop_scale[0]))


def interpolation(preprocess: Preprocess) -> InterpolationMode:
    """The interpolation mode of the preprocessing. Raises InputError for an unknown name."""
    modes = {mode.value: mode for mode in InterpolationMode}
    if preprocess.interpolation not in modes:
        near = nearest(preprocess.interpolation, modes, 1)
        raise InputError(
            f"interpolation: expected {', '.join(modes)}, received {preprocess.interpolation}"
            + (f"; try {near[0]}" if near else "")
        )
    return modes[preprocess.interpolation]


def resize(image_CHW: torch.Tensor, edge: int, mode: InterpolationMode) -> torch.Tensor:
    """Resizes the shorter edge to that length in pixels. Returns the image itself if it already has it."""
    height, width = image_CHW.shape[-2:]
    size = (edge, int(edge * width / height)) if height <= width else (int(edge * height / width), edge)
    return _resize_to(image_CHW, size, mode)


def _resize_to(image_CHW: torch.Tensor, size: tuple[int, int], mode: InterpolationMode) -> torch.Tensor:
    """Resizes to (height, width) with the same grey levels on every processor.

    torchvision uses torch's uint8 kernel for bilinear resizing only on processors with AVX2 and on ARM. Elsewhere it
    computes in float32, which rounds every eighth value differently from Pillow.
    """
    if image_CHW.shape[-2:] == size:
        return image_CHW
    if mode is InterpolationMode.BILINEAR:
        return F.interpolate(image_CHW[None], size, mode=mode.value, antialias=True)[0]
    return v2.functional.resize(image_CHW, list(size), interpolation=mode, antialias=True)


def _resized_part(
    image_CHW: torch.Tensor, part: v2.RandomResizedCrop, edge: int, mode: InterpolationMode
) -> torch.Tensor:
    """A random part of the image, drawn by `part`, resized to a square with that edge."""
    box = part.make_params([image_CHW])
    return _resize_to(v2.functional.crop(image_CHW, **box), (edge, edge), mode)


class Normalize:
    """Converts uint8 to float32 by `(value / 255 - mean) / std`, in memory order C, H, W.

    The memory order must not depend on the number of workers, because kernels for different orders differ in the last
    bit.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean_C11 = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std_C11 = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)

    def __call__(self, image_CHW: torch.Tensor, out_CHW: torch.Tensor) -> torch.Tensor:
        """Writes to `out_CHW`, which must be contiguous."""
        return out_CHW.copy_(image_CHW).div_(255).sub_(self.mean_C11).div_(self.std_C11)


def quarter_turns(image_CHW: torch.Tensor) -> torch.Tensor:
    """Rotates by 0, 90, 180 or 270 degrees with equal probability, for images without an up and down."""
    return torch.rot90(image_CHW, int(torch.randint(4, (1,))), (-2, -1))


def _shape(preprocess: Preprocess) -> tuple[int, int, int]:
    return len(preprocess.mean), preprocess.image_size, preprocess.image_size


def _normalize(preprocess: Preprocess) -> Normalize:
    return Normalize(preprocess.mean, preprocess.std)


def _to_square(preprocess: Preprocess) -> list[Step]:
    """The steps from an image [C, H, W] to [C, S, S]; the first one resizes it."""
    size, mode = preprocess.image_size, interpolation(preprocess)
    match Resize(preprocess.resize):
        case Resize.crop:
            centre = partial(v2.functional.center_crop, output_size=[size, size])
            return [partial(resize, edge=resized_edge(preprocess), mode=mode), centre]
        case Resize.squash:
            return [partial(_resize_to, size=(size, size), mode=mode)]
        case Resize.letterbox:
            grey = [float(round(255 * mean)) for mean in preprocess.mean]
            return [partial(_within, edge=size, mode=mode), partial(_bordered, edge=size, fill=grey)]
        case Resize.pad:
            return [partial(_within, edge=size, mode=mode), partial(_bordered, edge=size, fill=None)]


def _within(image_CHW: torch.Tensor, edge: int, mode: InterpolationMode) -> torch.Tensor:
    """The image with its longer edge at that length."""
    height, width = image_CHW.shape[-2:]
    longer = max(height, width)
    return _resize_to(image_CHW, (max(1, round(edge * height / longer)), max(1, round(edge * width / longer))), mode)


def _bordered(image_CHW: torch.Tensor, edge: int, fill: list[float] | None) -> torch.Tensor:
    """The image in the middle of a square, with borders in one colour or (None) that repeat the outermost pixels."""
    height, width = image_CHW.shape[-2:]
    left, top = (edge - width) // 2, (edge - height) // 2
    sides = [left, top, edge - width - left, edge - height - top]
    if fill is None:
        return v2.functional.pad(image_CHW, sides, padding_mode="edge")
    return v2.functional.pad(image_CHW, sides, fill=fill)


def _check(augment: AugmentConfig, preprocess: Preprocess) -> None:
    for key in ("hflip", "vflip", "jitter", "erase"):
        value = getattr(augment, key)
        if not 0 <= value <= 1:
            raise InputError(f"augment.{key}: expected a number from 0 to 1, received {value:g}")
    if not 0 <= augment.rotate <= 180:
        raise InputError(f"augment.rotate: expected an angle from 0 to 180 degrees, received {augment.rotate:g}")
    scale = augment.crop_scale
    if scale is not None and not (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1):
        raise InputError(
            f"augment.crop_scale: expected the smallest and the largest share of the area, above 0 and at most 1, "
            f"received {list(scale)}; try augment.crop_scale=[0.5,1]"
        )
    if len(preprocess.mean) not in (1, 3):
        off = {"jitter": "0", "policy": "none"}
        for key in [key for key, value in off.items() if str(getattr(augment, key)).removesuffix(".0") != value]:
            raise InputError(
                f"augment.{key}: expected grey or RGB images, received data.channels={len(preprocess.mean)}; "
                f"try augment.{key}={off[key]}"
            )
