"""The interface of a task for training, evaluation, export and prediction."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn
from torchmetrics import Metric
from typing_extensions import override

from graft.config.choices import TaskKind
from graft.config.schema import LossConfig
from graft.tasks.convex import ConvexLoss

TINY = 1e-30
"""Smallest probability of which the logarithm is taken."""


class Task(nn.Module, ABC):
    """The meaning of labels and outputs. It is a module, so that its data statistics move to the device with everything
    else.

    Its buffers are in no state dict: they follow from the training images, or from an export's record.

    Args:
        names: names of the network's outputs: classes, labels or numbers.
    """

    kind: ClassVar[TaskKind]

    temperature: float = 1.0
    """Logits are divided by it before they become probabilities: 1, unless a run has fitted another."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.own: Mapping[str, Callable[[], Metric]] = {}
        """What makes each further metric of the user's, by name."""

    def with_temperature(self, temperature: float) -> Self:
        """The same task with calibrated predictions."""
        calibrated = copy.copy(self)
        calibrated.temperature = temperature
        return calibrated

    @classmethod
    @abstractmethod
    def learnt(cls, names: Sequence[str], labels: Sequence[Any]) -> Self:
        """The task for these training labels."""

    @classmethod
    def recorded(cls, names: Sequence[str], record: Mapping[str, Any]) -> Self:
        """The task from the result of `record`."""
        return cls(names)

    def record(self) -> dict[str, Any]:
        """The entries in model.json besides the names."""
        return {"kind": self.kind.value}

    @abstractmethod
    def described(self) -> str:
        """A description for the plan: 2 classes (ant, bee)."""

    def label(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The truth for metrics: [B] classes, or [B, K]."""
        return batch["label"] if "label" in batch else batch["target"]

    @abstractmethod
    def criterion(self, config: LossConfig) -> Criterion:
        """The training loss."""

    @abstractmethod
    def loss(self, outputs_BK: Tensor, target: Tensor) -> Tensor:
        """The loss reported by evaluation, without class weights and smoothing, so that runs with different settings
        can be compared."""

    @abstractmethod
    def scored(self, outputs_BK: Tensor, label: Tensor) -> Tensor:
        """The metric that is also computed during training, summed over the images."""

    @abstractmethod
    def answers(self, outputs_BK: Tensor) -> Tensor:
        """Predictions in the data's own terms [B, K]: probabilities, or numbers in their original units."""

    @abstractmethod
    def judged(self, answers_NK: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """A score for each image's prediction (higher is better), and its loss up to a factor: [N] and [N], float64.

        Args:
            answers_NK: predictions as returned by `answers`.
            label: the truth as returned by `label`.
        """

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """The metrics in `config.figures` by name, all computed from predictions and labels."""

    def every_metric(self) -> dict[str, Metric]:
        """The task's metrics and the user's own, by name."""
        return {**self.metrics(), **{name: make() for name, make in self.own.items()}}

    def sharpness_slopes(self, outputs_NK: Tensor, label: Tensor, sharpness: float) -> tuple[float, float] | None:
        """First and second derivative of the mean negative log-likelihood of the labels with respect to the factor on
        the logits.

        The negative log-likelihood is convex in that factor, 1/temperature. None if predictions are not probabilities.
        """
        return None

    def confusion(self) -> Metric | None:
        """The confusion matrix for single_label; None for other tasks."""
        return None


class Criterion(nn.Module, ABC):
    """The training loss: a weighted mean over images."""

    def weights(self, target: Tensor) -> Tensor | None:
        """Weight of each image in a batch [B]; None: all 1.

        A step may consist of several batches, on several processes. Its loss is the weighted mean over all their
        images.
        """
        return None

    @abstractmethod
    def convex(self, target: Tensor, outputs: int, weight_N: Tensor | None = None) -> ConvexLoss:
        """The same mean over all of these images at once in float64, for a solver of linear heads.

        Args:
            outputs: K, the number of the network's outputs.
            weight_N: additional weight of each image; None: all the same.
        """

    @abstractmethod
    @override
    def forward(self, outputs_BK: Tensor, target: Tensor) -> Tensor:
        """The mean over a batch, `Σ wᵢ lᵢ / Σ wᵢ`."""


def listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")
