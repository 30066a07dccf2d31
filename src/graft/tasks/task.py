"""One kind of task, as training, evaluation, export and prediction ask it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
    """What labels and outputs mean. A module, so that what it knows of the data moves to the device with the rest.

    Its buffers are in no state dict: they follow from the training part, or from an export's record.

    Args:
        names: of the network's outputs: classes, labels or numbers.
    """

    kind: ClassVar[TaskKind]

    temperature: float = 1.0
    """Logits are divided by it before they become probabilities: 1, unless a run has fitted another."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)

    def with_temperature(self, temperature: float) -> Self:
        """The same task with calibrated answers."""
        calibrated = copy.copy(self)
        calibrated.temperature = temperature
        return calibrated

    @classmethod
    @abstractmethod
    def learnt(cls, names: Sequence[str], labels: Sequence[Any]) -> Self:
        """As the training part's labels make it."""

    @classmethod
    def recorded(cls, names: Sequence[str], record: Mapping[str, Any]) -> Self:
        """As `record` told it."""
        return cls(names)

    def record(self) -> dict[str, Any]:
        """What stands in model.json beside the names."""
        return {"kind": self.kind.value}

    @abstractmethod
    def described(self) -> str:
        """Of the plan: 2 classes (ant, bee)."""

    def label(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What figures are computed against: [B] classes, or [B, K]."""
        return batch["label"] if "label" in batch else batch["target"]

    @abstractmethod
    def criterion(self, config: LossConfig) -> Criterion:
        """What training minimises."""

    @abstractmethod
    def loss(self, outputs_BK: Tensor, target: Tensor) -> Tensor:
        """What evaluation tells as the loss: without weights and smoothing, so that runs which differ there compare."""

    @abstractmethod
    def scored(self, outputs_BK: Tensor, label: Tensor) -> Tensor:
        """The figure that is counted in training too, summed over the images."""

    @abstractmethod
    def answers(self, outputs_BK: Tensor) -> Tensor:
        """What the network says in the data's own terms [B, K]: probabilities, or numbers in their units."""

    @abstractmethod
    def judged(self, answers_NK: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """How right each image's answer is, higher is better, and its loss up to a factor: [N] and [N], float64.

        Args:
            answers_NK: as `answers` gives them.
            label: as `label` gives it.
        """

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """The figures of `config.figures` under their names, all of answers and labels."""

    def sharpness_slopes(self, outputs_NK: Tensor, label: Tensor, sharpness: float) -> tuple[float, float] | None:
        """First and second derivative of the mean negative log likelihood of the labels by the factor on the logits.

        The likelihood is convex in that factor, 1/temperature. None where answers are not probabilities.
        """
        return None

    def confusion(self) -> Metric | None:
        """Counts of what was taken for what, where an image has one class."""
        return None


class Criterion(nn.Module, ABC):
    """What training minimises: a mean over images, each with its weight."""

    def weights(self, target: Tensor) -> Tensor | None:
        """What each image of a batch weighs [B]; None: all the same, 1.

        A step may be several batches, on several processes. Its loss is the mean over all their images together.
        """
        return None

    @abstractmethod
    def convex(self, target: Tensor, outputs: int, weight_N: Tensor | None = None) -> ConvexLoss:
        """The same mean over all of these images at once, as a solver of linear heads takes it, in float64.

        Args:
            outputs: K, of the network.
            weight_N: what each image weighs besides; None: all the same.
        """

    @abstractmethod
    @override
    def forward(self, outputs_BK: Tensor, target: Tensor) -> Tensor:
        """A batch's mean, `Σ wᵢ lᵢ / Σ wᵢ`."""


def listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")
