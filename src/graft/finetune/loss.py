"""What training minimises: cross-entropy on hard or soft targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from graft.config.faults import InputError
from graft.config.schema import ClassWeights, LossConfig


class Criterion(nn.Module):
    """Cross-entropy with label smoothing [Szegedy et al. 2016] and class weights.

    Args:
        class_counts: training images a class; what class_weights=balanced goes by.
    """

    def __init__(self, config: LossConfig, class_counts: Sequence[int] | None = None) -> None:
        super().__init__()
        self.config = config
        self.weight: Tensor | None
        weight = None if config.class_weights is ClassWeights.none else balanced_weights(class_counts)
        self.register_buffer("weight", weight, persistent=False)

    @override
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits [B, K] and classes [B] or probabilities [B, K] to the batch's mean."""
        return F.cross_entropy(logits, target, weight=self.weight, label_smoothing=self.config.label_smoothing)


def balanced_weights(counts: Sequence[int] | None) -> Tensor:
    """N / (K · n_k): each class weighs the same in sum, and an image weighs 1 on average."""
    if not counts or min(counts) <= 0:
        raise InputError(
            f"loss.class_weights: expected training images of every class, received counts {counts}; try none"
        )
    held = torch.tensor(counts, dtype=torch.float32)
    return held.sum() / (len(held) * held)


def label_of(batch: dict[str, Tensor]) -> Tensor:
    """Hard labels [B]: the batch's own, or its target's likeliest class."""
    if "label" in batch:
        return batch["label"]
    target = batch["target"]
    return target if target.ndim == 1 else target.argmax(1)
