"""A model that is ready to use: the network, its preprocessing and its record."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image as Picture
from torch import nn

from graft.config.faults import InputError
from graft.data.pixels import Unreadable, array_pixels, bytes_pixels, image_pixels, read_pixels
from graft.data.transforms import eval_transform, jpeg_edge
from graft.models.preprocess import Preprocess
from graft.tasks.task import Task

Image = Path | str | bytes | Picture | np.ndarray[Any, Any] | torch.Tensor


class Preparation:
    """Turns an image into the network's input: decoding, resizing, cropping and normalization as for the donor."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.settings = preprocess
        self._transform = eval_transform(preprocess)

    def __call__(self, image: Image) -> torch.Tensor:
        """The network's input for an image: float32 [C, S, S], S being the side in pixels.

        Files are decoded as in training, which may reduce large JPEGs. All other images are used at full size.

        Args:
            image: the path or the bytes of a file; a PIL image; an array of uint8 or uint16, [H, W] or [H, W, C]; a
                tensor of uint8, [H, W] or [C, H, W]; or a float tensor [C, S, S] that is already preprocessed.

        Raises:
            InputError: the image is unreadable or has another number of channels.
        """
        try:
            if isinstance(image, torch.Tensor) and image.is_floating_point():
                return self._preprocessed(image)
            return self._transform(torch.from_numpy(self._pixels(image)).permute(2, 0, 1))
        except Unreadable as error:
            raise InputError(str(error)) from error

    def _pixels(self, image: Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """uint8 [H, W, C]"""
        channels, edge = self.settings.channels, jpeg_edge(self.settings)
        match image:
            case str() | Path():
                return read_pixels(os.path.expanduser(image), channels, edge)
            case bytes():
                return bytes_pixels(image, channels, edge)
            case torch.Tensor():
                array = image.cpu().numpy()
                return array_pixels(np.moveaxis(array, 0, -1) if array.ndim == 3 else array, channels)
            case np.ndarray():
                return array_pixels(image, channels)
            case _:
                return image_pixels(image, channels)

    def _preprocessed(self, image: torch.Tensor) -> torch.Tensor:
        shape = (self.settings.channels, self.settings.image_size, self.settings.image_size)
        if tuple(image.shape) != shape:
            raise InputError(
                f"image: expected {list(shape)} of a tensor of floats, which counts as preprocessed, received "
                f"{list(image.shape)}; try uint8 values from 0 to 255, or .preprocess"
            )
        return image.float()

    def __repr__(self) -> str:
        return f"Preparation({self.settings})"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    """A network in eval mode, with its preprocessing, task and record."""

    module: nn.Module
    classes: tuple[str, ...]
    """Names of the outputs: classes, labels or numbers."""
    task: Task
    preprocess: Preparation
    record: Mapping[str, Any]
    """The contents of model.json."""
    folder: Path
    """The model folder."""
