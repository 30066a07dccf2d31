"""From a uint8 image [C, H, W] to what enters the network: float32 [C, S, S], as the donor saw its images.

Every random decision is drawn from torch's CPU generator, which the dataset seeds for each sample (law 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torchvision.transforms import InterpolationMode, v2

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
MARGIN = 2  # a JPEG decoded at a smaller scale is still so many times as long as what it is resized to


class Transform:
    """Steps on a uint8 image [C, H, W], after which it is [C, S, S]; normalising; steps on what came of it.

    Args:
        shape: C, S, S.
        after: write to what they are given.
    """

    def __init__(
        self, shape: tuple[int, int, int], before: Sequence[Step], normalize: Normalize, after: Sequence[Step] = ()
    ) -> None:
        self.shape, self.before, self.normalize, self.after = shape, before, normalize, after

    def __call__(self, image_CHW: torch.Tensor, out_CSS: torch.Tensor | None = None) -> torch.Tensor:
        """float32 [C, S, S]: written into `out_CSS` where one is given, so that a batch is filled without a copy."""
        for step in self.before:
            image_CHW = step(image_CHW)
        out_CSS = torch.empty(self.shape) if out_CSS is None else out_CSS
        image_CSS = self.normalize(image_CHW, out_CSS)
        for step in self.after:
            image_CSS = step(image_CSS)
        return image_CSS


def eval_transform(preprocess: Preprocess) -> Transform:
    """Resize the shorter edge, crop the centre, scale to 0 … 1, normalise: as torchvision and timm evaluate.

    Resizing rounds to whole grey levels as Pillow does, with antialiasing.
    """
    return Transform(_shape(preprocess), [_resize(preprocess), _centre(preprocess)], _normalize(preprocess))


def train_transform(augment: AugmentConfig, preprocess: Preprocess) -> Transform:
    """The evaluation transform with what `augment` asks for put in between.

    Without `crop_scale` the image is resized and cropped exactly as in evaluation; with it, a random part of the image
    (that share of its area, its sides in a proportion of 3:4 to 4:3) is resized to the whole square.
    Rotation leaves black corners, fewer of them where the centre is cropped afterwards. What is erased becomes the
    mean.

    Raises:
        InputError: an option out of range, or jitter on images that are neither grey nor RGB.
    """
    _check(augment, preprocess)
    rotation = (
        [v2.RandomRotation([-augment.rotate, augment.rotate], InterpolationMode.BILINEAR)] if augment.rotate else []
    )
    steps: list[Step]
    if augment.crop_scale is None:
        steps = [_resize(preprocess), *rotation, _centre(preprocess)]
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
    """Length, in pixels, that the image's shorter edge is resized to before the centre is cropped."""
    return math.floor(preprocess.image_size / preprocess.crop_fraction + 1e-4)


def jpeg_edge(preprocess: Preprocess, crop_scale: Sequence[float] | None = None) -> int | None:
    """Length that a JPEG's shorter edge must keep where it is decoded at a smaller scale; None: at none.

    What is resized stays `MARGIN` times as long as what it is resized to. Of a random part of the image (`crop_scale`
    of its area) the smallest counts: of its sides, 3:4 at most, the shorter has √(¾ · share) of the image's at least.
    """
    if not preprocess.reduced_jpeg:
        return None
    if crop_scale is None:
        return MARGIN * resized_edge(preprocess)
    return math.ceil(MARGIN * preprocess.image_size / math.sqrt(0.75 * crop_scale[0]))


def interpolation(preprocess: Preprocess) -> InterpolationMode:
    """The donor's, by its name."""
    modes = {mode.value: mode for mode in InterpolationMode}
    if preprocess.interpolation not in modes:
        near = nearest(preprocess.interpolation, modes, 1)
        raise InputError(
            f"interpolation: expected {', '.join(modes)}, received {preprocess.interpolation}"
            + (f"; try {near[0]}" if near else "")
        )
    return modes[preprocess.interpolation]


def resize(image_CHW: torch.Tensor, edge: int, mode: InterpolationMode) -> torch.Tensor:
    """The image with its shorter edge at that length; the image itself where it has it already."""
    height, width = image_CHW.shape[-2:]
    size = (edge, int(edge * width / height)) if height <= width else (int(edge * height / width), edge)
    return _resize_to(image_CHW, size, mode)


def _resize_to(image_CHW: torch.Tensor, size: tuple[int, int], mode: InterpolationMode) -> torch.Tensor:
    """The same grey levels on every processor.

    torchvision hands bilinear resizing to torch's kernel for whole grey levels only where the processor has AVX2 (or
    is an ARM); elsewhere it computes in float32, which rounds every eighth value otherwise than Pillow does.
    """
    if image_CHW.shape[-2:] == size:
        return image_CHW
    if mode is InterpolationMode.BILINEAR:
        return F.interpolate(image_CHW[None], size, mode=mode.value, antialias=True)[0]
    return v2.functional.resize(image_CHW, list(size), interpolation=mode, antialias=True)


def _resized_part(
    image_CHW: torch.Tensor, part: v2.RandomResizedCrop, edge: int, mode: InterpolationMode
) -> torch.Tensor:
    """A random part of the image, as `part` draws it, on a square of that edge."""
    box = part.make_params([image_CHW])
    return _resize_to(v2.functional.crop(image_CHW, **box), (edge, edge), mode)


class Normalize:
    """uint8 to float32: `(value / 255 - mean) / std`, in memory order C, H, W whatever the input's was.

    The order matters: kernels chosen by memory order differ in the last bit, and a batch's order must not depend on
    how many worker processes assembled it.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean_C11 = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std_C11 = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)

    def __call__(self, image_CHW: torch.Tensor, out_CHW: torch.Tensor) -> torch.Tensor:
        """Fills `out_CHW`, whose memory is in that order."""
        return out_CHW.copy_(image_CHW).div_(255).sub_(self.mean_C11).div_(self.std_C11)


def quarter_turns(image_CHW: torch.Tensor) -> torch.Tensor:
    """Turns by 0, 90, 180 or 270 degrees, each as likely: what has no up and down."""
    return torch.rot90(image_CHW, int(torch.randint(4, (1,))), (-2, -1))


def _shape(preprocess: Preprocess) -> tuple[int, int, int]:
    return len(preprocess.mean), preprocess.image_size, preprocess.image_size


def _normalize(preprocess: Preprocess) -> Normalize:
    return Normalize(preprocess.mean, preprocess.std)


def _resize(preprocess: Preprocess) -> Step:
    return partial(resize, edge=resized_edge(preprocess), mode=interpolation(preprocess))


def _centre(preprocess: Preprocess) -> Step:
    return partial(v2.functional.center_crop, output_size=[preprocess.image_size] * 2)


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
