"""Convex losses of logits, as sums over rows that include weights for rows and classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override


@dataclass(frozen=True, slots=True)
class ConvexLoss(ABC):
    """The loss summed over rows and divided by `total`. Tensors [N, K] have the dtype of the logits.

    Attributes:
        total: divisor of the sum: the total weight of the rows.
    """

    total: float

    @abstractmethod
    def value(self, logits_NK: Tensor) -> Tensor:
        """The loss, a scalar."""

    @abstractmethod
    def gradient(self, logits_NK: Tensor) -> Tensor:
        """The derivative with respect to each logit [N, K]."""

    @abstractmethod
    def rows(self, chosen: slice) -> Self:
        """The part of the loss due to these rows. Values and gradients of all parts add up."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """K."""

    @property
    @abstractmethod
    def curvature(self) -> float:
        """The average second derivative with respect to a logit at zero, for scaling a preconditioner."""


@dataclass(frozen=True, slots=True)
class Softmax(ConvexLoss):
    """Cross-entropy: Σᵢₖ qᵢₖ · −log softmax(z)ᵢₖ / total.

    Attributes:
        share_NK: q. One-hot rows for hard classes; smoothed or soft targets, times each class's weight.
    """

    share_NK: Tensor

    @override
    def value(self, logits_NK: Tensor) -> Tensor:
        return -(F.log_softmax(logits_NK, 1) * self.share_NK).sum() / self.total

    @override
    def gradient(self, logits_NK: Tensor) -> Tensor:
        return (logits_NK.softmax(1) * self.share_NK.sum(1, keepdim=True) - self.share_NK) / self.total

    @override
    def rows(self, chosen: slice) -> Self:
        return replace(self, share_NK=self.share_NK[chosen])

    @property
    @override
    def outputs(self) -> int:
        return self.share_NK.shape[1]

    @property
    @override
    def curvature(self) -> float:
        return float(self.share_NK.sum()) / self.total * (1 - 1 / self.outputs) / self.outputs


@dataclass(frozen=True, slots=True)
class Sigmoid(ConvexLoss):
    """Binary cross-entropy of each output: Σᵢₖ (aᵢₖ softplus(−zᵢₖ) + bᵢₖ softplus(zᵢₖ)) / total.

    Attributes:
        yes_NK: a, the weight of the positive outcome: the target times the weight of a positive.
        no_NK: b, the weight of the negative outcome.
    """

    yes_NK: Tensor
    no_NK: Tensor

    @override
    def value(self, logits_NK: Tensor) -> Tensor:
        return (self.yes_NK * F.softplus(-logits_NK) + self.no_NK * F.softplus(logits_NK)).sum() / self.total

    @override
    def gradient(self, logits_NK: Tensor) -> Tensor:
        return ((self.yes_NK + self.no_NK) * logits_NK.sigmoid() - self.yes_NK) / self.total

    @override
    def rows(self, chosen: slice) -> Self:
        return replace(self, yes_NK=self.yes_NK[chosen], no_NK=self.no_NK[chosen])

    @property
    @override
    def outputs(self) -> int:
        return self.yes_NK.shape[1]

    @property
    @override
    def curvature(self) -> float:
        return float((self.yes_NK + self.no_NK).sum()) / self.total / self.outputs / 4


@dataclass(frozen=True, slots=True)
class Squared(ConvexLoss):
    """The squared error, summed over outputs.

    Attributes:
        target_NK: the targets of the outputs.
        weight_N1: weight of each row; None: 1.
    """

    target_NK: Tensor
    weight_N1: Tensor | None = None

    @override
    def value(self, logits_NK: Tensor) -> Tensor:
        return self._weighted((logits_NK - self.target_NK).square()).sum() / self.total

    @override
    def gradient(self, logits_NK: Tensor) -> Tensor:
        return self._weighted(2 * (logits_NK - self.target_NK)) / self.total

    @override
    def rows(self, chosen: slice) -> Self:
        weight_N1 = None if self.weight_N1 is None else self.weight_N1[chosen]
        return replace(self, target_NK=self.target_NK[chosen], weight_N1=weight_N1)

    @property
    @override
    def outputs(self) -> int:
        return self.target_NK.shape[1]

    @property
    @override
    def curvature(self) -> float:
        return 2 * self._rows_weight / self.total

    def _weighted(self, values_NK: Tensor) -> Tensor:
        return values_NK if self.weight_N1 is None else values_NK * self.weight_N1

    @property
    def _rows_weight(self) -> float:
        return float(len(self.target_NK) if self.weight_N1 is None else self.weight_N1.sum())


@dataclass(frozen=True, slots=True)
class SmoothL1(Squared):
    """Huber's loss, which is quadratic within `beta` of the target and linear beyond [Huber 1964], summed over
    outputs."""

    beta: float = 1.0

    @override
    def value(self, logits_NK: Tensor) -> Tensor:
        errors_NK = F.smooth_l1_loss(logits_NK, self.target_NK, beta=self.beta, reduction="none")
        return self._weighted(errors_NK).sum() / self.total

    @override
    def gradient(self, logits_NK: Tensor) -> Tensor:
        return self._weighted(((logits_NK - self.target_NK) / self.beta).clamp(-1, 1)) / self.total

    @property
    @override
    def curvature(self) -> float:
        return self._rows_weight / self.total / self.beta


def one_hot(classes_N: Tensor, outputs: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """One-hot rows [N, K]."""
    return F.one_hot(classes_N.long(), outputs).to(dtype)
