"""Mixup and cutmix: blends pairs of training images, or pastes a patch of one into the other, and mixes their targets.

An image's partner is the next image of the step, counted over all processes. Pairs therefore do not depend on the
number of processes or workers (law 5). In a single process, every partner is in the same batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.distributions import Beta
from torch.utils.data import Dataset
from typing_extensions import override

from graft.config.schema_images import AugmentConfig
from graft.data.loader import Batch, KeyedImages
from graft.data.pixels import Unreadable
from graft.data.sampling import Key, KeyedBatchSampler, derive, drawn_from


class Pair(NamedTuple):
    """The key of a sample, the key of its partner, and their step in the epoch."""

    key: Key
    partner: Key
    step: int


class PairedBatchSampler(KeyedBatchSampler):
    """Yields the batches of `KeyedBatchSampler` as lists of pairs."""

    @override
    def __iter__(self) -> Iterator[list[Any]]:
        for step, whole in self.steps():
            pairs = [Pair(key, whole[(place + 1) % len(whole)], step) for place, key in enumerate(whole)]
            yield pairs[self.rank :: self.world]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How two images are mixed."""

    weight: float
    """Weight of the image and of its target. The partner's weight is 1 minus this."""
    box: tuple[int, int, int, int] | None = None
    """cutmix: top, bottom, left and right of the partner's patch, in pixels. None: mixup."""

    def image(self, own_CHW: torch.Tensor, partner_CHW: torch.Tensor) -> torch.Tensor:
        """The mixed image [C, H, W]."""
        if self.box is None:
            return partner_CHW.lerp(own_CHW, self.weight)
        top, bottom, left, right = self.box
        mixed_CHW = own_CHW.clone()
        mixed_CHW[:, top:bottom, left:right] = partner_CHW[:, top:bottom, left:right]
        return mixed_CHW

    def target(self, own: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
        """The mixed target, of any shape."""
        return partner.lerp(own, self.weight)


def draw_mix(augment: AugmentConfig, height: int, width: int) -> Mix:
    """Draws a mix from torch's CPU generator. If both kinds are on, each has probability 1/2.

    mixup: λ ~ Beta(α, α) [Zhang et al. 2018]. cutmix: a box around a random point with the share 1 − λ of the area,
    clipped at the border; λ is then the share of the image outside the box [Yun et al. 2019].
    """
    cut = bool(augment.cutmix) and (not augment.mixup or float(torch.rand(())) < 0.5)
    alpha = torch.tensor(augment.cutmix if cut else augment.mixup, dtype=torch.float64)
    share = float(Beta(alpha, alpha).sample())
    if not cut:
        return Mix(weight=share)
    y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
    side = (1 - share) ** 0.5
    half_y, half_x = int(side * height / 2), int(side * width / 2)
    top, bottom = max(y - half_y, 0), min(y + half_y, height)
    left, right = max(x - half_x, 0), min(x + half_x, width)
    return Mix(weight=1 - (bottom - top) * (right - left) / (height * width), box=(top, bottom, left, right))


class MixedImages(Dataset[dict[str, Any]]):
    """The images of a training part, each mixed with its partner. Targets [K] are mixed too.

    The label remains the image's own. Training accuracy is computed against it.

    Args:
        classes: number of classes, labels or numbers.
        seed: the run's seed.
    """

    def __init__(self, images: KeyedImages, augment: AugmentConfig, *, classes: int, seed: int) -> None:
        self.images, self.augment, self.classes, self.seed = images, augment, classes, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, pairs: Sequence[Pair]) -> Batch | Unreadable:
        keys = list(dict.fromkeys(key for pair in pairs for key in (pair.key, pair.partner)))
        batch = self.images.__getitems__(keys)
        if isinstance(batch, Unreadable):
            return batch
        items = {key: {name: values[place] for name, values in batch.items()} for place, key in enumerate(keys)}
        mixed = [self._mixed(items[pair.key], items[pair.partner], pair) for pair in pairs]
        return {name: torch.stack([item[name] for item in mixed]) for name in batch}

    def _mixed(self, own: Batch, partner: Batch, pair: Pair) -> Batch:
        of = (pair.key.epoch, pair.step) if self.augment.mix_per == "batch" else pair.key
        with drawn_from(derive("mix", self.augment.mix_per, self.seed, *of)):
            mix = draw_mix(self.augment, *own["image"].shape[1:])
        return {
            **own,
            "image": mix.image(own["image"], partner["image"]),
            "target": mix.target(self._shares(own["target"]), self._shares(partner["target"])),
        }

    def _shares(self, target: torch.Tensor) -> torch.Tensor:
        """Targets as float [N, K]: classes become one-hot, and other targets are returned unchanged."""
        return target if target.ndim else F.one_hot(target, self.classes).float()
