"""Solves a linear head exactly: the minimum of a convex loss plus an L2 penalty, for a path of penalties.

The path starts with the strongest penalty, and each solution is the starting point for the next weaker one (warm
start). The search runs in coordinates in which the covariance of the features is diagonal, where L-BFGS converges in a
few steps. If there are more features than images, these coordinates span the images only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from graft.tasks.convex import ConvexLoss

PENALTIES = tuple(10.0 ** (-exponent / 2) for exponent in range(2, 14))
"""λ from 0.1 down to 3e-7, for features whose rows have norm 1 on average."""
ROTATED = 4096  # of images and features, the smaller number up to which the covariance is diagonalised
BLOCK = 8192  # rows at a time, where not all are held
IN_MEMORY = 2**30  # bytes of scaled features that may be held at once
STEPS = 300  # evaluations for a penalty
ROUGH, FINE = 1e-3, 1e-6
"""The largest derivative, in coordinates with curvature 1, at which the search ends: for a point on the path, and for
the chosen point. The loss is then within about 1e-6, or 1e-11, of the minimum. FINE is computed in float64: in
float32 the rounding error is larger, and the point at which the search stalls depends on the processor."""
TOO_WEAK = 3  # penalties in a row whose validation loss rises, before the path ends


class Features(Protocol):
    """Features [N, D] of any floating-point type: a tensor, or an object that reads them block by block."""

    @property
    def shape(self) -> Sequence[int]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The result for one penalty on the path."""

    penalty: float
    loss: float
    """Validation loss, or the training loss if there is no validation."""
    train_loss: float
    """Training loss without the penalty."""
    steps: int
    """Number of evaluations of the loss and its gradient."""
    epoch: int | None = None
    """Best epoch, counted from 1, of layers that are trained by minibatches."""


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
class Solution:
    """The result of solving for a path of penalties."""

    head: Head
    """The head for the penalty with the lowest validation loss."""
    path: tuple[Point, ...]
    """The points from the strongest penalty to the weakest one that was tried."""
    chosen: int
    """Index of the chosen point on the path."""
    complete: bool
    """Whether every penalty was tried. If not, the validation loss had been rising and the path ended early."""

    @property
    def penalty(self) -> float:
        return self.path[self.chosen].penalty

    @property
    def at_end(self) -> bool:
        """Whether the chosen penalty is the strongest or the weakest of all, so that a better one may lie outside the
        range."""
        return self.chosen == 0 or (self.complete and self.chosen == len(self.path) - 1)


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


def solve(
    features_ND: Features,
    loss: ConvexLoss,
    *,
    validation: Callable[[Head], float] | None = None,
    penalties: Sequence[float] = PENALTIES,
    exact: bool = True,
) -> Solution:
    """Minimises loss(features · Wᵀ + b) + penalty/2 · ‖W‖², W for scaled features, for each penalty, strongest first.

    The method has no seed and no learning rate. On one machine and with one number of threads, the same input gives the
    same bits.

    Args:
        features_ND: cached features. If they do not fit into memory, they are read block by block.
        loss: the loss as a function of the rows' logits [N, K].
        validation: loss of a head on other images, which selects the penalty. None: the weakest penalty is selected.
        penalties: from strong to weak.
        exact: whether to refine the chosen head in float64; its loss on the path is the same either way.

    Returns:
        The head for the best penalty, with weights for unscaled features.

    Raises:
        ValueError: there are no rows, or not all numbers are finite.

    Example:
        >>> import torch
        >>> from graft.tasks.convex import Softmax, one_hot
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> solution = solve(x, Softmax(4.0, one_hot(torch.tensor([0, 0, 1, 1]), 2)), penalties=[1e-3])
        >>> solution.head(x).argmax(1).tolist()
        [0, 0, 1, 1]
    """
    if not len(features_ND):
        raise ValueError("solve: expected features of at least one image, received none")
    scaling = Scaling.of(features_ND)
    if not bool(torch.isfinite(scaling.mean_D).all()):
        raise ValueError("solve: expected finite features, received NaN or infinity")
    rows = _Rows(features_ND, scaling)
    weight_RK = torch.zeros(rows.width, loss.outputs, dtype=torch.float64)
    bias_K = torch.zeros(loss.outputs, dtype=torch.float64)
    path: list[Point] = []
    best: tuple[float, int, Tensor, Tensor] | None = None
    for penalty in penalties:
        train_loss, steps = _minimise(rows, loss, penalty, weight_RK, bias_K, exact=False)
        head = rows.unscaled(weight_RK, bias_K)
        held_out = validation(head) if validation else train_loss
        path.append(Point(penalty=penalty, loss=held_out, train_loss=train_loss, steps=steps))
        if not math.isfinite(held_out):
            raise ValueError(f"solve: expected a finite loss, received {held_out} with penalty {penalty:g}")
        if best is None or held_out <= best[0]:
            best = held_out, len(path) - 1, weight_RK.clone(), bias_K.clone()
        elif len(path) - 1 - best[1] >= TOO_WEAK:
            break
    assert best is not None, "there is a penalty"
    _, chosen, weight_RK, bias_K = best
    if exact:
        _minimise(rows, loss, path[chosen].penalty, weight_RK, bias_K, exact=True)
    head = rows.unscaled(weight_RK, bias_K)
    return Solution(head=head, path=tuple(path), chosen=chosen, complete=len(path) == len(penalties))


class _Rows:
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
            held_NR = self.exact_NR.float()
            self.in_memory = held_NR, held_NR.T.contiguous()

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


def _minimise(
    rows: _Rows, loss: ConvexLoss, penalty: float, weight_RK: Tensor, bias_K: Tensor, *, exact: bool
) -> tuple[float, int]:
    """Finds the minimum for one penalty, starting from the given weights and overwriting them. Returns its training
    loss and the number of steps."""
    tolerance, dtype = (FINE, torch.float64) if exact else (ROUGH, torch.float32)
    curvature = loss.curvature
    scale_R1 = (curvature * rows.spread_R + penalty).rsqrt()[:, None]
    scale_bias = curvature**-0.5
    free = torch.cat([weight_RK / scale_R1, bias_K[None] / scale_bias]).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [free], max_iter=STEPS, max_eval=STEPS, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=tolerance, tolerance_change=0.0,
    )  # fmt: skip
    data_loss, evaluations = 0.0, 0

    def closure() -> Tensor:
        nonlocal data_loss, evaluations
        evaluations += 1
        with torch.no_grad():
            weight, bias = free[:-1] * scale_R1, free[-1] * scale_bias
            turned = rows.onto_blocks(weight)
            value, slope_turned = torch.zeros((), dtype=torch.float64), torch.zeros_like(turned)
            slope_K = torch.zeros_like(bias)
            for part, block_NR, block_RN in rows.blocks(dtype):
                share = loss.rows(part)
                logits = (block_NR @ turned.to(dtype)).double() + bias
                value += share.value(logits)
                slope = share.gradient(logits)
                slope_turned += block_RN @ slope.to(dtype)
                slope_K += slope.sum(0)
            data_loss = float(value)
            slope_RK = rows.from_blocks(slope_turned)
            free.grad = torch.cat([(slope_RK + penalty * weight) * scale_R1, slope_K[None] * scale_bias])
            return value + penalty / 2 * weight.square().sum()

    optimizer.step(closure)
    with torch.no_grad():
        weight_RK.copy_(free[:-1] * scale_R1)
        bias_K.copy_(free[-1] * scale_bias)
    return data_loss, evaluations


def _blocks(features_ND: Features) -> Iterable[Tensor]:
    """Blocks of features in float64, created on demand."""
    return (features_ND[start : start + BLOCK].double() for start in range(0, len(features_ND), BLOCK))
