"""Convex losses of logits, as sums over rows with weights inside, so that a row or a class may weigh what it likes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override


@dataclass(frozen=True, slots=True)
class ConvexLoss(ABC):
    """The loss of every row, summed and divided by `total`. Tensors [N, K] of the logits' dtype.

    Attributes:
        total: what the sum is divided by: the rows' weights together.
    """

    total: float

    @abstractmethod
    def value(self, logits_NK: Tensor) -> Tensor:
        """The loss, a scalar."""

    @abstractmethod
    def gradient(self, logits_NK: Tensor) -> Tensor:
        """Its derivative by each logit [N, K]."""

    @abstractmethod
    def rows(self, chosen: slice) -> ConvexLoss:
        """The share of these rows: of all shares, values and gradients add up."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """K."""

    @property
    @abstractmethod
    def curvature(self) -> float:
        """What the second derivative by a logit is near zero logits, on average: scales a preconditioner."""


@dataclass(frozen=True, slots=True)
class Softmax(ConvexLoss):
    """Cross-entropy: Σᵢₖ qᵢₖ · −log softmax(z)ᵢₖ / total.

    Attributes:
        share_NK: q. One-hot rows for plain classes; smoothed or soft targets, times each class's weight.
    """

    share_NK: Tensor

    @override
    def value(self, logits_NK: Tensor) -> Tensor:
        return -(F.log_softmax(logits_NK, 1) * self.share_NK).sum() / self.total

    @override
    def gradient(self, logits_NK: Tensor) -> Tensor:
        return (logits_NK.softmax(1) * self.share_NK.sum(1, keepdim=True) - self.share_NK) / self.total

    @override
    def rows(self, chosen: slice) -> Softmax:
        return Softmax(self.total, self.share_NK[chosen])

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
        yes_NK: a, the weight of the answer yes: the target, times a positive's weight.
        no_NK: b, the weight of the answer no.
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
    def rows(self, chosen: slice) -> Sigmoid:
        return Sigmoid(self.total, self.yes_NK[chosen], self.no_NK[chosen])

    @property
    @override
    def outputs(self) -> int:
        return self.yes_NK.shape[1]

    @property
    @override
    def curvature(self) -> float:
        return float((self.yes_NK + self.no_NK).sum()) / self.total / self.outputs / 4


@dataclass(frozen=True, slots=True)
class SmoothL1(ConvexLoss):
    """Huber's loss with its corner at `beta` [Huber 1964], summed over outputs.

    Attributes:
        target_NK: what the outputs should be.
    """

    target_NK: Tensor
    beta: float = 1.0

    @override
    def value(self, logits_NK: Tensor) -> Tensor:
        return F.smooth_l1_loss(logits_NK, self.target_NK, beta=self.beta, reduction="sum") / self.total

    @override
    def gradient(self, logits_NK: Tensor) -> Tensor:
        return ((logits_NK - self.target_NK) / self.beta).clamp(-1, 1) / self.total

    @override
    def rows(self, chosen: slice) -> SmoothL1:
        return SmoothL1(self.total, self.target_NK[chosen], self.beta)

    @property
    @override
    def outputs(self) -> int:
        return self.target_NK.shape[1]

    @property
    @override
    def curvature(self) -> float:
        return len(self.target_NK) / self.total / self.beta


def one_hot(classes_N: Tensor, outputs: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """[N, K] of zeros and a one a row."""
    return F.one_hot(classes_N.long(), outputs).to(dtype)
