"""Augmentations as users write them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


class Noise:
    """Draws from three generators."""

    def __init__(self, most: int = 3) -> None:
        self.most = most

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        drawn = random.randint(0, self.most) + int(np.random.randint(0, self.most)) + torch.randint(9, image.shape)
        return (image // 2 + drawn).to(torch.uint8)


def halved(image: torch.Tensor) -> torch.Tensor:
    return image / 2


def broken(image: torch.Tensor) -> Any:
    return {}[image.shape]
