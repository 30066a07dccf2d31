"""An augmentation by import path: the user's own, torchvision's or albumentations'."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from graft.config.faults import InputError
from graft.config.import_path import OwnCode, call_object, check_callable, import_object

KEY = "augment.target"
ALBUMENTATIONS = "albumentations"
HIGHEST = 2**31 - 1


class OwnAugmentation:
    """Calls the target on a uint8 image [C, S, S].

    A class is instantiated with the arguments. A function is called as `function(image, **kwargs)`. The classes of
    albumentations receive and return arrays [S, S, C]. The generators of torch, numpy and Python are all seeded from
    torch's, which the dataset seeds for each image (law 5).
    """

    def __init__(self, path: str, kwargs: Mapping[str, Any]) -> None:
        self.path = path
        target = import_object(KEY, path)
        check_callable(KEY, path, target)
        self.function: Callable[..., Any] = (
            call_object(KEY, path, **kwargs) if isinstance(target, type) else partial(target, **kwargs)
        )
        check_callable(KEY, path, self.function)
        kind: type = type(self.function)
        self.of_arrays = any(each.__module__.partition(".")[0] == ALBUMENTATIONS for each in kind.__mro__)

    def __call__(self, image_CSS: torch.Tensor) -> torch.Tensor:
        seed = int(torch.randint(HIGHEST, (1,)))
        before = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        try:
            result = self._arrays(image_CSS, seed) if self.of_arrays else self.function(image_CSS)
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
        return self._checked(result, image_CSS)

    def _arrays(self, image_CSS: torch.Tensor, seed: int) -> Any:
        function: Any = self.function
        if hasattr(function, "set_random_seed"):
            function.set_random_seed(seed)
        return function(image=np.ascontiguousarray(image_CSS.permute(1, 2, 0).numpy()))["image"]

    def _checked(self, result: Any, image_CSS: torch.Tensor) -> torch.Tensor:
        if isinstance(result, Image.Image):
            result = functional.pil_to_tensor(result)
        elif isinstance(result, np.ndarray):
            result = torch.from_numpy(np.ascontiguousarray(result)).permute(2, 0, 1)
        fits = isinstance(result, torch.Tensor) and (result.dtype, result.shape) == (torch.uint8, image_CSS.shape)
        if not fits:
            what = f"{list(result.shape)} {result.dtype}" if hasattr(result, "shape") else type(result).__name__
            raise InputError(
                f"{KEY}: expected {self.path} to return an image like its own, {list(image_CSS.shape)} uint8, received "
                f"{what}; try one that keeps size and type, because normalization follows"
            )
        return result


def check_augmentation(path: str | None, kwargs: Mapping[str, Any], shape: tuple[int, int, int]) -> None:
    """Applies the augmentation to a black image, so that mistakes in it are found before training.

    Args:
        path: import path; None: nothing is checked.
        shape: C, H, W of the image.

    Raises:
        InputError: it cannot be imported or instantiated, fails, or returns no uint8 image of the same shape.
    """
    if path is None:
        return
    with torch.random.fork_rng(devices=[]), OwnCode(f"{KEY}: expected {path} to augment an image {list(shape)}"):
        OwnAugmentation(path, kwargs)(torch.zeros(shape, dtype=torch.uint8))
