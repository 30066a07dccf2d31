"""A model as it is used: the network, the preprocessing that came with its donor, and its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from graft.config.faults import InputError
from graft.data.images import decode
from graft.data.pixels import Unreadable, image_pixels
from graft.data.transforms import eval_transform, jpeg_edge
from graft.models.preprocess import Preprocess
from graft.tasks.task import Task

if TYPE_CHECKING:
    from PIL.Image import Image


class Preparation:
    """What stands between an image and the network: decoding, the donor's size, crop and normalisation."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.settings = preprocess
        self._transform = eval_transform(preprocess)

    def __call__(self, image: Path | str | Image) -> torch.Tensor:
        """A file or a PIL image as the network takes it, float32 [C, S, S].

        A file is decoded as in training; a PIL image is taken at the size that it has.

        Raises:
            InputError: a file that is no readable image, or one of another number of channels.
        """
        try:
            if isinstance(image, Path | str):
                pixels_CHW = decode(str(image), self.settings.channels, jpeg_edge(self.settings))
            else:
                pixels_CHW = torch.from_numpy(image_pixels(image, self.settings.channels)).permute(2, 0, 1)
        except Unreadable as error:
            raise InputError(str(error)) from error
        return self._transform(pixels_CHW)

    def __repr__(self) -> str:
        return f"Preparation({self.settings})"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    """A network with its weights, in eval mode, and what is needed to use it."""

    module: nn.Module
    classes: tuple[str, ...]
    """Names of the outputs: classes, labels or numbers."""
    task: Task
    preprocess: Preparation
    record: Mapping[str, Any]
    """model.json"""
    folder: Path
    """The model folder."""
