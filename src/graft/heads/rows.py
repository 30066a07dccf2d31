"""The features that a head is solved on: scaled, rotated so that their covariance is diagonal, and remembered."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

ROTATED = 4096  # of images and features, the smaller number up to which the covariance is diagonalised
BLOCK = 8192  # rows at a time, where not all are held
IN_MEMORY = 2**30  # bytes of scaled features that may be held at once
REMEMBERED = 2**27  # bytes of scaled features that are held for this process's next head on the same features


class Features(Protocol):
    """Features [N, D] of any floating-point type: a tensor, or an object that reads them block by block."""

    @property
    def shape(self) -> Sequence[int]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Head:
    """A linear layer for unscaled features. Both tensors are float64."""

    weight_KD: Tensor
    bias_K: Tensor

    def __call__(self, features_ND: Tensor) -> Tensor:
        """Logits [N, K], float64."""
        return features_ND.double() @ self.weight_KD.T + self.bias_K


def logits_of(head: Head, features_ND: Features) -> Tensor:
    """Logits [N, K] of all rows, which are read a block at a time."""
    starts = range(0, len(features_ND), BLOCK)
    return torch.cat([head(features_ND[start : start + BLOCK]) for start in starts])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Standardises each feature over the training images, and scales rows to a root mean square norm of 1."""

    mean_D: Tensor
    factor_D: Tensor
    """1 / (standard deviation · √D); 0 for a constant feature."""

    @classmethod
    def of(cls, features_ND: Features) -> Scaling:
        """The scaling of these features, computed block by block in float64."""
        count, width = features_ND.shape
        total_D = torch.zeros(width, dtype=torch.float64)
        square_D = torch.zeros(width, dtype=torch.float64)
        for block in _blocks(features_ND):
            total_D += block.sum(0)
        mean_D = total_D / count
        for block in _blocks(features_ND):
            square_D += (block - mean_D).square().sum(0)
        deviation_D = (square_D / count).sqrt()
        varies = deviation_D > 1e-6 * deviation_D.max()
        factor_D = torch.where(varies, 1 / deviation_D.clamp_min(1e-300), 0.0) / max(int(varies.sum()), 1) ** 0.5
        return cls(mean_D=mean_D, factor_D=factor_D)

    def __call__(self, features_ND: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Scaled, in this type."""
        return (features_ND.to(dtype) - self.mean_D.to(dtype)).mul_(self.factor_D.to(dtype))


class Rows:
    """Scaled features, rotated to a diagonal covariance if that is affordable. float32 along the path, float64 for the
    final solution."""

    def __init__(self, features_ND: Features, scaling: Scaling) -> None:
        self.features_ND, self.scaling = features_ND, scaling
        count, width = features_ND.shape
        self.rotation_DR: Tensor | None = None
        self.spread_R = torch.full((width,), 1.0 / width, dtype=torch.float64)
        scaled_ND = scaling(features_ND[:]) if count * width * 8 <= IN_MEMORY else None
        if min(count, width) <= ROTATED and (scaled_ND is not None or width <= count):
            self.rotation_DR, self.spread_R = self._principal(scaled_ND)
        self.width = len(self.spread_R)
        self.exact_NR: Tensor | None = None
        self.in_memory: tuple[Tensor, Tensor] | None = None
        if scaled_ND is not None:
            self.exact_NR = scaled_ND if self.rotation_DR is None else scaled_ND @ self.rotation_DR
            single_NR = self.exact_NR.float()
            self.in_memory = single_NR, single_NR.T.contiguous()

    @property
    def size(self) -> int:
        """Bytes held."""
        tensors = [self.features_ND, self.rotation_DR, self.exact_NR, *(self.in_memory or ())]
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))

    def _principal(self, scaled_ND: Tensor | None) -> tuple[Tensor, Tensor]:
        """Principal directions of the features [D, R] and their variances [R]."""
        count, width = self.features_ND.shape
        if count < width:  # in the images' span
            assert scaled_ND is not None
            variance, left = torch.linalg.eigh(scaled_ND @ scaled_ND.T)
            varies = variance > 1e-10 * variance[-1].clamp_min(1e-300)
            variance, left = variance[varies], left[:, varies]
            return scaled_ND.T @ (left / variance.sqrt()), variance / count
        gram_DD = torch.zeros(width, width, dtype=torch.float64)
        for block in _blocks(self.features_ND) if scaled_ND is None else scaled_ND.split(BLOCK):
            scaled = self.scaling(block) if scaled_ND is None else block
            gram_DD.addmm_(scaled.T, scaled)
        variance, rotation = torch.linalg.eigh(gram_DD.float())  # any orthogonal rotation will do
        return rotation.double(), variance.double().clamp_min(0) / count

    def blocks(self, dtype: torch.dtype) -> Generator[tuple[slice, Tensor, Tensor]]:
        """Yields slices of rows, the rows [n, R], and the same rows transposed [R, n]."""
        count = len(self.features_ND)
        if self.exact_NR is not None and self.in_memory is not None:
            yield slice(0, count), *(self.in_memory if dtype == torch.float32 else (self.exact_NR, self.exact_NR.T))
            return
        for start in range(0, count, BLOCK):
            part = slice(start, min(start + BLOCK, count))
            block = self.scaling(self.features_ND[part], dtype)
            yield part, block, block.T

    def onto_blocks(self, weight_RK: Tensor) -> Tensor:
        """Converts weights to the coordinates of `blocks`: rows that are read anew each time are not rotated, so the
        weights are."""
        return weight_RK if self.in_memory is not None or self.rotation_DR is None else self.rotation_DR @ weight_RK

    def from_blocks(self, slope: Tensor) -> Tensor:
        """Converts a gradient with respect to such weights to one with respect to the original weights."""
        return slope if self.in_memory is not None or self.rotation_DR is None else self.rotation_DR.T @ slope

    def unscaled(self, weight_RK: Tensor, bias_K: Tensor) -> Head:
        """The layer for unscaled features."""
        weight_DK = weight_RK if self.rotation_DR is None else self.rotation_DR @ weight_RK
        weight_DK = weight_DK * self.scaling.factor_D[:, None]
        return Head(weight_DK.T.contiguous(), bias_K - self.scaling.mean_D @ weight_DK)


_remembered: OrderedDict[tuple[object, ...], Rows] = OrderedDict()


def rows_of(features_ND: Features) -> Rows:
    """Scales the features. The trials of a sweep solve many heads on the same features, so small ones are remembered:
    by their content, and by the number of threads, which may change the bits."""
    count, width = features_ND.shape
    if count * width * 8 > min(REMEMBERED // 4, IN_MEMORY):
        return Rows(features_ND, _finite_scaling(features_ND))
    whole = features_ND[:]
    content = hashlib.sha256(whole.contiguous().view(torch.uint8).numpy().tobytes()).digest()
    key = content, whole.shape, whole.dtype, torch.get_num_threads()
    if key not in _remembered:
        _remembered[key] = Rows(whole, _finite_scaling(whole))
    _remembered.move_to_end(key)
    rows = _remembered[key]
    while sum(each.size for each in _remembered.values()) > REMEMBERED:
        _remembered.popitem(last=False)
    return rows


def _finite_scaling(features_ND: Features) -> Scaling:
    scaling = Scaling.of(features_ND)
    if not bool(torch.isfinite(scaling.mean_D).all()):
        raise ValueError("solve: expected finite features, received NaN or infinity")
    return scaling


def _blocks(features_ND: Features) -> Iterable[Tensor]:
    """Blocks of features in float64, created on demand."""
    return (features_ND[start : start + BLOCK].double() for start in range(0, len(features_ND), BLOCK))
