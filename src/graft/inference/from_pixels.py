"""From a decoded picture to probabilities in one graph, for programs that have neither graft nor PyTorch.

Resizing multiplies the picture by a matrix of weights for each axis. The matrices are computed inside the graph, so it
takes pictures of any size. As in Pillow and PyTorch, the weights are whole numbers over a power of two, and the result
is rounded to whole grey levels after each axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from graft.config.choices import Resize
from graft.data.transforms import resized_edge
from graft.models.preprocess import Preprocess
from graft.results.model import OpenedModel
from graft.tasks.task import Task

A = -0.5  # of the cubic kernel, as Pillow has it
ENDS = 4  # pixels at both ends of an axis, where the weights of a few pixels are larger than elsewhere
PRECISION, BITS = 22, 2**15  # of weights, as Pillow and PyTorch have them


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance.abs()).clamp(min=0)


def _cubic(distance: Tensor) -> Tensor:
    x = distance.abs()
    near = ((A + 2) * x - (A + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * A - 4 * A
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


KERNELS: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {"bilinear": (1.0, _triangle), "bicubic": (2.0, _cubic)}
"""Radius in pixels of the smaller image, and the kernel, of each interpolation that averages."""


class FromPixels(nn.Module):
    """A model that takes pixels as a decoder gives them, uint8 [H, W, C], and returns answers [K]: calibrated
    probabilities, or the numbers of a regression."""

    def __init__(self, opened: OpenedModel) -> None:
        super().__init__()
        self.network: nn.Module = opened.module
        self.task: Task = opened.task
        self.squares = Squares(opened.preprocess.settings)

    @override
    def forward(self, pixels_HWC: Tensor) -> Tensor:
        return self.task.answers(self.network(self.squares(pixels_HWC)[None]))[0]


class Averaged(nn.Module):
    """Several models of the same classes that take pixels, as one: the mean of their answers."""

    def __init__(self, models: Sequence[OpenedModel]) -> None:
        super().__init__()
        self.members = nn.ModuleList(FromPixels(opened) for opened in models)

    @override
    def forward(self, pixels_HWC: Tensor) -> Tensor:
        return torch.stack([member(pixels_HWC) for member in self.members]).mean(0)


class Squares(nn.Module):
    """The preprocessing: uint8 [H, W, C] to float32 [C, S, S]."""

    mean_C11: Tensor
    std_C11: Tensor
    fill_C11: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.settings, self.resize = preprocess, Resize(preprocess.resize)
        mean_C = torch.tensor(preprocess.mean, dtype=torch.float32)
        self.register_buffer("mean_C11", mean_C.view(-1, 1, 1), persistent=False)
        self.register_buffer("std_C11", torch.tensor(preprocess.std).view(-1, 1, 1), persistent=False)
        self.register_buffer("fill_C11", (255 * mean_C).round().view(-1, 1, 1), persistent=False)

    @override
    def forward(self, pixels_HWC: Tensor) -> Tensor:
        y_H, x_W = (torch.arange(pixels_HWC.shape[axis], dtype=torch.float64) for axis in (0, 1))
        height, width = y_H[-1] + 1, x_W[-1] + 1
        new_height, new_width = self._resized(height, width)
        rows_SH, is_row_S = self._axis(y_H, height, new_height)
        columns_SW, is_column_S = self._axis(x_W, width, new_width)
        image_CHW = pixels_HWC.permute(2, 0, 1).double()
        image_CHS = _whole(image_CHW @ columns_SW.T)
        image_CSS = _whole(rows_SH @ image_CHS).float()
        if self.resize is Resize.letterbox:
            inside_SS = is_row_S[:, None] & is_column_S[None]
            image_CSS = torch.where(inside_SS, image_CSS, self.fill_C11)
        return (image_CSS / 255 - self.mean_C11) / self.std_C11

    def _resized(self, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """Height and width after resizing, as whole numbers."""
        size = torch.tensor(float(self.settings.image_size), dtype=torch.float64)
        match self.resize:
            case Resize.crop:
                edge, shorter = float(resized_edge(self.settings)), torch.minimum(height, width)
                return torch.floor(edge * height / shorter), torch.floor(edge * width / shorter)
            case Resize.squash:
                return size, size
            case Resize.letterbox | Resize.pad:
                longer = torch.maximum(height, width)
                new = (torch.round(size * side / longer).clamp(min=1) for side in (height, width))
                return next(new), next(new)

    def _axis(self, place_L: Tensor, length: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [S, L] of an axis that is resized from `length` to `new` pixels, then cropped or extended to S, and
        whether each of the S pixels is one of the picture's own."""
        size = float(self.settings.image_size)
        first = torch.round((new - size) / 2) if self.resize is Resize.crop else -torch.floor((size - new) / 2)
        at_S = torch.arange(int(size), dtype=torch.float64) + first
        is_own_S = (at_S >= 0) & (at_S < new)
        at_S = torch.minimum(at_S.clamp(min=0), new - 1)
        if self.settings.interpolation not in KERNELS:  # nearest
            return (place_L == torch.floor(at_S * (length / new))[:, None]).double(), is_own_S
        radius, kernel = KERNELS[self.settings.interpolation]
        weights_SL = _weights(at_S, place_L, length, new, radius, kernel)
        ends = torch.arange(ENDS, dtype=torch.float64)
        at_E = torch.minimum(torch.cat([ends, new - 1 - ends]).clamp(min=0), new - 1)
        largest = torch.maximum(weights_SL.max(), _weights(at_E, place_L, length, new, radius, kernel).max())
        return _fixed_point(weights_SL, largest), is_own_S


def _weights(
    at_S: Tensor, place_L: Tensor, length: Tensor, new: Tensor, radius: float, kernel: Callable[[Tensor], Tensor]
) -> Tensor:
    """Weights [S, L] of the pixels in `place_L` for those in `at_S` of the resized axis."""
    scale = length / new
    stretch = scale.clamp(min=1)
    centre_S1 = (at_S[:, None] + 0.5) * scale
    low_S1 = torch.floor((centre_S1 - radius * stretch + 0.5).clamp(min=0))
    high_S1 = torch.minimum(torch.floor(centre_S1 + radius * stretch + 0.5), length)
    within_SL = (place_L >= low_S1) & (place_L < high_S1)
    weights_SL = kernel((place_L - centre_S1 + 0.5) / stretch) * within_SL
    return weights_SL / weights_SL.sum(1, keepdim=True)


def _fixed_point(weights_SL: Tensor, largest: Tensor) -> Tensor:
    """The weights as multiples of the smallest power of two with which the axis's largest one has 15 bits."""
    powers_P = 2.0 ** torch.arange(1, PRECISION + 1, dtype=torch.float64)
    fits_P = torch.floor(largest * powers_P + 0.5) < BITS
    unit = torch.where(fits_P, powers_P, torch.ones_like(powers_P)).max()
    scaled_SL = weights_SL * unit
    return torch.trunc(scaled_SL + 0.5 * torch.sign(scaled_SL)) / unit


def _whole(values: Tensor) -> Tensor:
    """Rounds to grey levels."""
    return torch.floor(values + 0.5).clamp(0, 255)


def example_pictures(opened: OpenedModel) -> list[Tensor]:
    """Random pictures, uint8 [H, W, C]: wide, tall, and smaller than the network's input."""
    settings, seeded = opened.preprocess.settings, torch.Generator().manual_seed(0)
    side = settings.image_size
    shapes = ((side + 13, 2 * side + 1), (3 * side + 5, side + 2), (side // 2 + 3, side // 3 + 3))
    return [torch.randint(0, 256, (*shape, settings.channels), generator=seeded, dtype=torch.uint8) for shape in shapes]
