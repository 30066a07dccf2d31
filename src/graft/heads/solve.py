"""Solves a linear head exactly: the minimum of a convex loss plus an L2 penalty, for a path of penalties.

The path starts with the strongest penalty, and each solution is the starting point for the next weaker one (warm
start). The search runs in coordinates in which the covariance of the features is diagonal, where L-BFGS converges in a
few steps. If there are more features than images, these coordinates span the images only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graft.heads.rows import Features, Head, Rows, rows_of
from graft.tasks.convex import ConvexLoss

PENALTIES = tuple(10.0 ** (-exponent / 2) for exponent in range(2, 14))
"""λ from 0.1 down to 3e-7, for features whose rows have norm 1 on average."""
STEPS = 300  # evaluations for a penalty
ROUGH, FINE = 1e-3, 1e-6
"""The largest derivative, in coordinates with curvature 1, at which the search ends: for a point on the path, and for
the chosen point. The loss is then within about 1e-6, or 1e-11, of the minimum. FINE is computed in float64: in
float32 the rounding error is larger, and the point at which the search stalls depends on the processor."""
TOO_WEAK = 3  # penalties in a row whose validation loss rises, before the path ends


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
    rows = rows_of(features_ND)
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


def _minimise(
    rows: Rows, loss: ConvexLoss, penalty: float, weight_RK: Tensor, bias_K: Tensor, *, exact: bool
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
