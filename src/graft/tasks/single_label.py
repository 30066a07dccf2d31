"""data.task=single_label: one class per image; cross-entropy with hard or soft targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.functional.classification import multilabel_auroc
from typing_extensions import override

from graft.config.choices import ClassWeights, TaskKind
from graft.config.faults import InputError, nearest
from graft.config.schema import LossConfig
from graft.tasks.averages import MacroF1, MeanArea
from graft.tasks.convex import Softmax, one_hot
from graft.tasks.losses import chosen_loss
from graft.tasks.task import TINY, Criterion, Task, listed


class SingleLabel(Task):
    """Outputs are logits, and predictions their softmax.

    Args:
        counts: number of training images per class, for loss.class_weights=balanced.
    """

    kind: ClassVar[TaskKind] = TaskKind.single_label

    def __init__(self, names: Sequence[str], counts: Sequence[int] | None = None) -> None:
        super().__init__(names)
        self.counts = counts

    @classmethod
    @override
    def learnt(cls, names: Sequence[str], labels: Sequence[Any]) -> Self:
        return cls(names, torch.bincount(torch.tensor(labels), minlength=len(names)).tolist())

    @override
    def described(self) -> str:
        return f"{len(self.names)} classes ({listed(self.names)})"

    @override
    def label(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The batch's label, or the most likely class of its target."""
        label = super().label(batch)
        return label if label.ndim == 1 else label.argmax(1)

    @override
    def criterion(self, config: LossConfig) -> Criterion:
        example = torch.zeros(2, len(self.names)), torch.tensor([0, len(self.names) - 1])
        return chosen_loss(
            config, lambda: CrossEntropy(config, self.counts, self.names), example, counts=self.counts
        )  # fmt: skip

    @override
    def loss(self, outputs_BK: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(outputs_BK, target)

    @override
    def scored(self, outputs_BK: Tensor, label: Tensor) -> Tensor:
        """The number of correct predictions."""
        return (outputs_BK.argmax(1) == label).sum()

    @override
    def answers(self, outputs_BK: Tensor) -> Tensor:
        return (outputs_BK.float() / self.temperature).softmax(1)

    @override
    def sharpness_slopes(self, outputs_NK: Tensor, label: Tensor, sharpness: float) -> tuple[float, float]:
        logits_NK = outputs_NK.double()
        probability_NK = (logits_NK * sharpness).softmax(1)
        mean_N = (probability_NK * logits_NK).sum(1)
        variance_N = (probability_NK * (logits_NK - mean_N[:, None]) ** 2).sum(1)
        return float((mean_N - logits_NK.gather(1, label[:, None])[:, 0]).mean()), float(variance_N.mean())

    @override
    def judged(self, answers_NK: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        right_N = (answers_NK.argmax(1) == label).double()
        return right_N, -answers_NK.double().gather(1, label[:, None]).clamp_min(TINY).log()[:, 0]

    @override
    def metrics(self) -> dict[str, Metric]:
        return {
            "accuracy": MulticlassAccuracy(len(self.names), average="micro", validate_args=False),
            "f1": MacroF1(len(self.names)),
            "auroc": MeanArea(multilabel_auroc),
        }

    @override
    def confusion(self) -> Metric:
        return MulticlassConfusionMatrix(num_classes=len(self.names), validate_args=False)


class CrossEntropy(Criterion):
    """Cross-entropy with label smoothing [Szegedy et al. 2016] and class weights.

    Args:
        counts: number of training images per class, for class_weights=balanced.
        names: of the classes, for loss.weights.
    """

    def __init__(self, config: LossConfig, counts: Sequence[int] | None = None, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.config = config
        self.weight: Tensor | None
        weight = named_weights(config.weights, names) if config.weights else None
        if config.class_weights is not ClassWeights.none:
            weight = balanced_weights(counts)
        self.register_buffer("weight", weight, persistent=False)

    @override
    def weights(self, target: Tensor) -> Tensor | None:
        """An image has the weight of its class; with a soft target, the average weight under the target."""
        if self.weight is None:
            return None
        return self.weight[target] if target.ndim == 1 else target @ self.weight.to(target.dtype)

    @override
    def convex(self, target: Tensor, outputs: int, weight_N: Tensor | None = None) -> Softmax:
        """Classes [N] or probabilities [N, K]."""
        share_NK = target.double() if target.ndim == 2 else one_hot(target, outputs)
        if weight_N is not None:
            share_NK = share_NK * weight_N.double()[:, None]
        weight_K = torch.ones(outputs, dtype=torch.float64) if self.weight is None else self.weight.double().cpu()
        smoothing, image_N1 = self.config.label_smoothing, share_NK.sum(1, keepdim=True)
        smoothed_NK = share_NK * (1 - smoothing) + image_N1 * smoothing / outputs
        return Softmax(float((share_NK @ weight_K).sum()), smoothed_NK * weight_K)

    @override
    def forward(self, outputs_BK: Tensor, target: Tensor) -> Tensor:
        """Classes [B] or probabilities [B, K]."""
        smoothing, weights = self.config.label_smoothing, self.weights(target)
        if weights is None:
            return F.cross_entropy(outputs_BK, target, label_smoothing=smoothing)
        assert self.weight is not None
        # A solved head is judged by its logits in float64; under autocast the loss is computed in float32.
        weight_K = self.weight.to(torch.promote_types(outputs_BK.dtype, torch.float32))
        total = F.cross_entropy(outputs_BK, target, weight=weight_K, label_smoothing=smoothing, reduction="sum")
        return total / weights.sum()


def named_weights(table: Mapping[str, float], names: Sequence[str]) -> Tensor:
    """The table's weights in the order of the classes; 1 for those that it does not name."""
    unknown = [name for name in table if name not in names]
    if unknown:
        near = nearest(unknown[0], names) or names[:3]
        raise InputError(
            f"loss.weights: expected names of classes ({listed(names)}), received {unknown[0]!r}; try "
            f"{' or '.join(near)}"
        )
    return torch.tensor([table.get(name, 1.0) for name in names], dtype=torch.float32)


def balanced_weights(counts: Sequence[int] | None) -> Tensor:
    """N / (K · n_k): every class gets the same total weight, and an image has weight 1 on average."""
    if not counts or min(counts) <= 0:
        raise InputError(
            f"loss.class_weights: expected training images of every class, received counts {counts}; try none"
        )
    counts_K = torch.tensor(counts, dtype=torch.float32)
    return counts_K.sum() / (len(counts_K) * counts_K)
