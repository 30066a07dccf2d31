"""data.task=multi_label: any number of labels per image, each an independent binary question; binary cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MultilabelAccuracy
from torchmetrics.functional.classification import multilabel_auroc, multilabel_average_precision
from typing_extensions import override

from graft.config.choices import ClassWeights, TaskKind
from graft.config.faults import InputError
from graft.config.schema import LossConfig
from graft.tasks.averages import MacroLabelF1, MeanArea, MicroLabelF1
from graft.tasks.convex import Sigmoid
from graft.tasks.losses import chosen_loss
from graft.tasks.task import TINY, Criterion, Task, listed

THRESHOLD = 0.5
"""The probability above which F1 and label accuracy count a label as said; mAP and AUROC need none."""


class MultiLabel(Task):
    """Outputs are logits, and predictions their sigmoid. Targets are 1 or 0 for each label, or fractions for mixed
    images.

    Args:
        counts: number of training images with each label, and in total, for loss.class_weights=balanced.
    """

    kind: ClassVar[TaskKind] = TaskKind.multi_label

    def __init__(self, names: Sequence[str], counts: tuple[Sequence[float], int] | None = None) -> None:
        super().__init__(names)
        self.counts = counts

    @classmethod
    @override
    def learnt(cls, names: Sequence[str], labels: Sequence[Any]) -> Self:
        return cls(names, (torch.tensor(labels).sum(0).tolist(), len(labels)))

    @override
    def described(self) -> str:
        return f"{len(self.names)} labels, any of them ({listed(self.names)})"

    @override
    def criterion(self, config: LossConfig) -> Criterion:
        example = torch.zeros(2, len(self.names)), torch.zeros(2, len(self.names))
        return chosen_loss(config, lambda: BinaryCrossEntropy(config, self.names, self.counts), example, several=True)

    @override
    def loss(self, outputs_BK: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs_BK, target)

    @override
    def scored(self, outputs_BK: Tensor, label: Tensor) -> Tensor:
        """The fraction of correctly predicted labels, summed over the images."""
        return ((outputs_BK > 0) == (label > THRESHOLD)).double().mean(1).sum()

    @override
    def answers(self, outputs_BK: Tensor) -> Tensor:
        return (outputs_BK.float() / self.temperature).sigmoid()

    @override
    def sharpness_slopes(self, outputs_NK: Tensor, label: Tensor, sharpness: float) -> tuple[float, float]:
        logits_NK = outputs_NK.double()
        probability_NK = (logits_NK * sharpness).sigmoid()
        variance_NK = probability_NK * (1 - probability_NK) * logits_NK**2
        return float(((probability_NK - label.double()) * logits_NK).mean()), float(variance_NK.mean())

    @override
    def judged(self, answers_NK: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        answers, holds = answers_NK.double(), label > THRESHOLD
        right_N = ((answers > THRESHOLD) == holds).double().mean(1)
        return right_N, -torch.where(holds, answers, 1 - answers).clamp_min(TINY).log().mean(1)

    @override
    def metrics(self) -> dict[str, Metric]:
        labels = len(self.names)
        return {
            "map": MeanArea(multilabel_average_precision),
            "f1": MacroLabelF1(labels, threshold=THRESHOLD),
            "f1_micro": MicroLabelF1(labels, threshold=THRESHOLD),
            "auroc": MeanArea(multilabel_auroc),
            "label_accuracy": MultilabelAccuracy(labels, THRESHOLD, average="micro", validate_args=False),
        }


class BinaryCrossEntropy(Criterion):
    """The mean over images and labels. Smoothing ε turns y into y(1 − ε) + ε/2. Labels have weights, images do not.

    Args:
        counts: number of training images with each label, and in total, for class_weights=balanced.
    """

    def __init__(
        self, config: LossConfig, names: Sequence[str], counts: tuple[Sequence[float], int] | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.weight: Tensor | None
        weight = None if config.class_weights is ClassWeights.none else positive_weights(names, counts)
        self.register_buffer("weight", weight, persistent=False)

    def _smoothed(self, target: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        return target * (1 - smoothing) + smoothing / 2 if smoothing else target

    @override
    def convex(self, target: Tensor, outputs: int, weight_N: Tensor | None = None) -> Sigmoid:
        """Labels [N, K]."""
        yes_NK = self._smoothed(target.double())
        image_N1 = (torch.ones(len(target), dtype=torch.float64) if weight_N is None else weight_N.double())[:, None]
        positive_K = 1.0 if self.weight is None else self.weight.double().cpu()
        return Sigmoid(float(image_N1.sum()) * outputs, yes_NK * image_N1 * positive_K, (1 - yes_NK) * image_N1)

    @override
    def forward(self, outputs_BK: Tensor, target: Tensor) -> Tensor:
        smoothed = self._smoothed(target)
        return F.binary_cross_entropy_with_logits(outputs_BK, smoothed, pos_weight=self.weight)


def positive_weights(names: Sequence[str], counts: tuple[Sequence[float], int] | None) -> Tensor:
    """(N − n_k) / n_k: the images with a label get the same total weight as those without it."""
    frequencies, images = counts or ([0] * len(names), 0)
    one_sided = [name for name, number in zip(names, frequencies, strict=True) if not 0 < number < images]
    if one_sided:
        raise InputError(
            "loss.class_weights: expected training images with each label and without it, received all or none for"
            f" {listed(one_sided)}; try loss.class_weights=none"
        )
    counted = torch.tensor(frequencies, dtype=torch.float32)
    return (images - counted) / counted
