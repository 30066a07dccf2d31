"""A linear head found exactly: the minimum of a convex loss plus an L2 penalty, over a path of penalties.

The weights of a strong penalty are where the search for the next weaker one begins (warm start), in the coordinates in
which the features' covariance is diagonal: where features outnumber images, these are the images' span, and they make
L-BFGS converge in a few steps.
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
"""Largest derivative, in coordinates of curvature 1, at which a point of the path, and the chosen one, are found: the
loss is then within some 1e-6, or 1e-11, of the minimum. FINE is computed in float64: in float32 rounding alone is more,
and which point the search then stalls at differs by processor."""
TOO_WEAK = 3  # penalties in a row whose validation loss rises, before the path ends


class Features(Protocol):
    """Rows of features [N, D] in any floating type: a tensor, or what reads a block at a time from elsewhere."""

    @property
    def shape(self) -> Sequence[int]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One penalty's head on the path."""

    penalty: float
    loss: float
    """Validation loss; the training loss where there is no validation."""
    train_loss: float
    """Without the penalty."""
    steps: int
    """Evaluations of loss and gradient that the search took."""


@dataclass(frozen=True, slots=True)
class Head:
    """A linear layer for features as they are, not standardised. Both tensors are float64."""

    weight_KD: Tensor
    bias_K: Tensor

    def __call__(self, features_ND: Tensor) -> Tensor:
        """Logits [N, K], float64."""
        return features_ND.double() @ self.weight_KD.T + self.bias_K


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """What a path of penalties led to."""

    head: Head
    """Of the penalty with the lowest validation loss."""
    path: tuple[Point, ...]
    """From the strongest penalty to the weakest that was tried."""
    chosen: int
    """Its place on the path."""
    complete: bool
    """Whether every penalty was tried; else the weaker ones were getting worse."""

    @property
    def penalty(self) -> float:
        return self.path[self.chosen].penalty

    @property
    def at_end(self) -> bool:
        """Whether the strongest or the weakest penalty of all was the best: beyond it there may be a better one."""
        return self.chosen == 0 or (self.complete and self.chosen == len(self.path) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What makes each feature have mean 0 and deviation 1 over the training part, and a row norm 1 on average."""

    mean_D: Tensor
    factor_D: Tensor
    """1 / (deviation · √D); 0 for a feature that does not vary."""

    @classmethod
    def of(cls, features_ND: Features) -> Scaling:
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

    def __call__(self, features_ND: Tensor) -> Tensor:
        """Scaled, float64."""
        return (features_ND.double() - self.mean_D) * self.factor_D


def solve(
    features_ND: Features,
    loss: ConvexLoss,
    *,
    validation: Callable[[Head], float] | None = None,
    penalties: Sequence[float] = PENALTIES,
    exact: bool = True,
) -> Solution:
    """Minimises loss(features · Wᵀ + b) + penalty/2 · ‖W‖², W for scaled features, for each penalty, strongest first.

    The same bits for the same input, on one machine with one number of threads; no seed, no learning rate.

    Args:
        features_ND: kept features; where all of them do not fit, a block at a time is read.
        loss: of the rows' logits [N, K].
        validation: a head's loss on other images, by which the penalty is chosen; None: the weakest penalty is.
        penalties: from strong to weak.
        exact: whether the chosen head is found to the last digits; its loss is the path's either way.

    Returns:
        The head of the best penalty, as weights for the features as given.

    Raises:
        ValueError: there is nothing to solve: no rows, or numbers that are not finite.

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
    """Scaled features, rotated to where their covariance is diagonal if that can be afforded; float32 for a path,
    float64 for its end."""

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
        """Directions in which features vary [D, R], and their variances [R]."""
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
        """Rows [n, R] a block at a time, with the block transposed."""
        count = len(self.features_ND)
        if self.exact_NR is not None and self.in_memory is not None:
            yield slice(0, count), *(self.in_memory if dtype == torch.float32 else (self.exact_NR, self.exact_NR.T))
            return
        for start in range(0, count, BLOCK):
            part = slice(start, min(start + BLOCK, count))
            scaled = self.scaling(self.features_ND[part])
            block = scaled.to(dtype)
            yield part, block, block.T

    def onto_blocks(self, weight_RK: Tensor) -> Tensor:
        """Weights for what `blocks` gives: blocks that are read anew each time stay as they are, and weights turn."""
        return weight_RK if self.in_memory is not None or self.rotation_DR is None else self.rotation_DR @ weight_RK

    def from_blocks(self, slope: Tensor) -> Tensor:
        """A derivative by such weights, as one by the weights."""
        return slope if self.in_memory is not None or self.rotation_DR is None else self.rotation_DR.T @ slope

    def unscaled(self, weight_RK: Tensor, bias_K: Tensor) -> Head:
        """The layer for features as they are."""
        weight_DK = weight_RK if self.rotation_DR is None else self.rotation_DR @ weight_RK
        weight_DK = weight_DK * self.scaling.factor_D[:, None]
        return Head(weight_DK.T.contiguous(), bias_K - self.scaling.mean_D @ weight_DK)


def _minimise(
    rows: _Rows, loss: ConvexLoss, penalty: float, weight_RK: Tensor, bias_K: Tensor, *, exact: bool
) -> tuple[float, int]:
    """The minimum for one penalty, from the given weights on, which are set to it; its training loss, and the steps."""
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
    """In float64, made when they are asked for."""
    return (features_ND[start : start + BLOCK].double() for start in range(0, len(features_ND), BLOCK))
