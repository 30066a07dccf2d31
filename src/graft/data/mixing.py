"""Mixup and cutmix: training images in pairs, blended or patched, and their targets with them.

An image's partner is the next one of the step that all processes take together, so what is mixed with what does not
depend on how many processes or workers there are (law 5). In a single process every partner is in the batch anyway.
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
    """One appearance of a sample, that of the sample it is mixed with, and the epoch's step of both."""

    key: Key
    partner: Key
    step: int


class PairedBatchSampler(KeyedBatchSampler):
    """The same batches, in pairs."""

    @override
    def __iter__(self) -> Iterator[list[Any]]:
        for step, whole in self.steps():
            pairs = [Pair(key, whole[(place + 1) % len(whole)], step) for place, key in enumerate(whole)]
            yield pairs[self.rank :: self.world]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How two images become one."""

    weight: float
    """Of the image itself and of its target; the partner's is 1 minus this."""
    box: tuple[int, int, int, int] | None = None
    """cutmix: top, bottom, left, right of what the partner covers. None: mixup."""

    def image(self, own_CHW: torch.Tensor, partner_CHW: torch.Tensor) -> torch.Tensor:
        if self.box is None:
            return partner_CHW.lerp(own_CHW, self.weight)
        top, bottom, left, right = self.box
        mixed_CHW = own_CHW.clone()
        mixed_CHW[:, top:bottom, left:right] = partner_CHW[:, top:bottom, left:right]
        return mixed_CHW

    def target(self, own: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
        return partner.lerp(own, self.weight)


def draw_mix(augment: AugmentConfig, height: int, width: int) -> Mix:
    """Draws from torch's CPU generator: which of the two (where both are on, each as likely), the share, the box.

    mixup: λ ~ Beta(α, α) [Zhang et al. 2018]. cutmix: a box of the share 1 − λ of the area around a random point, cut
    off at the border; λ is then the share that is left of the image [Yun et al. 2019].
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
    """A training part's images, each mixed with its partner: batches as the images' own, the target [K] a mixture too,
    of classes, labels or numbers.

    The label stays the image's own, and training accuracy is counted against it.

    Args:
        classes: how many there are.
        seed: the run's.
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
        """A class as a share of each; what has a value for each is that already."""
        return target if target.ndim else F.one_hot(target, self.classes).float()
