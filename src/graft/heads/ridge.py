"""Ridge regression from a single factorisation: the weights for every penalty, and exact leave-one-out predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graft.heads.rows import Head, Scaling

PENALTIES = tuple(10.0 ** (-exponent / 2) for exponent in range(0, 16))
"""λ from 1 down to 3e-8, for features whose rows have norm 1 on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RidgeSolution:
    """The head of the penalty with the lowest error."""

    head: Head
    penalties: tuple[float, ...]
    errors: tuple[float, ...]
    """The mean squared leave-one-out error for each penalty."""
    chosen: int
    left_out_NK: Tensor
    """For each row, the prediction of a head fitted to all other rows, with the chosen penalty."""


def solve_ridge(features_ND: Tensor, target_NK: Tensor, *, penalties: Sequence[float] = PENALTIES) -> RidgeSolution:
    """Minimises |features · Wᵀ + b − target|² / N + penalty · ‖W‖², W for scaled features; leave-one-out selects the
    penalty.

    The identity ŷ₋ᵢ = (ŷᵢ − Hᵢᵢ yᵢ) / (1 − Hᵢᵢ), with the hat matrix H, is exact for fixed means and scales of the
    features [Allen 1974], so no head is fitted twice. If there are more features than rows, all computations are done
    in the row space.

    Args:
        features_ND: floating point, with N ≥ 2.
        target_NK: numbers, or one-hot classes.
        penalties: the candidates.

    Raises:
        ValueError: there are fewer than two rows, or not all numbers are finite.

    Example:
        >>> import torch
        >>> x = torch.arange(6.0)[:, None]
        >>> solution = solve_ridge(x, 2 * x + 1, penalties=[1e-9])
        >>> [round(float(y), 3) for y in solution.head(torch.tensor([[10.0]]))[0]]
        [21.0]
    """
    if len(features_ND) < 2:
        raise ValueError(f"solve_ridge: expected two rows or more, received {len(features_ND)}")
    scaling = Scaling.of(features_ND)
    if not bool(torch.isfinite(scaling.mean_D).all() and torch.isfinite(target_NK).all()):
        raise ValueError("solve_ridge: expected finite features and targets, received NaN or infinity")
    scaled_ND, target_NK = scaling(features_ND), target_NK.double()
    count, width = scaled_ND.shape
    mean_K = target_NK.mean(0)
    centred_NK = target_NK - mean_K
    if count < width:
        squared, left_NR = torch.linalg.eigh(scaled_ND @ scaled_ND.T)
        keeps = squared > 1e-12 * squared[-1].clamp_min(1e-300)
        squared, left_NR = squared[keeps], left_NR[:, keeps]
        right_DR = scaled_ND.T @ (left_NR / squared.sqrt())
    else:
        squared, right_DR = torch.linalg.eigh(scaled_ND.T @ scaled_ND)
        keeps = squared > 1e-12 * squared[-1].clamp_min(1e-300)
        squared, right_DR = squared[keeps], right_DR[:, keeps]
        left_NR = (scaled_ND @ right_DR) / squared.sqrt()
    onto_RK, leverage_NR = left_NR.T @ centred_NK, left_NR.square()

    def left_out(penalty: float) -> Tensor:
        shrink_R = squared / (squared + count * penalty)
        fitted_NK = mean_K + left_NR @ (shrink_R[:, None] * onto_RK)
        hat_N1 = (1 / count + leverage_NR @ shrink_R)[:, None].clamp_max(1 - 1e-12)
        return (fitted_NK - hat_N1 * target_NK) / (1 - hat_N1)

    errors = tuple(float((left_out(penalty) - target_NK).square().mean()) for penalty in penalties)
    chosen = min(range(len(errors)), key=errors.__getitem__)
    shrunk_R1 = (squared.sqrt() / (squared + count * penalties[chosen]))[:, None]
    weight_DK = (right_DR @ (shrunk_R1 * onto_RK)) * scaling.factor_D[:, None]
    return RidgeSolution(
        head=Head(weight_DK.T.contiguous(), mean_K - scaling.mean_D @ weight_DK),
        penalties=tuple(penalties),
        errors=errors,
        chosen=chosen,
        left_out_NK=left_out(penalties[chosen]),
    )
