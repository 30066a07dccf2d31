"""Metrics that are means over a task's outputs. Outputs for which they are undefined in a part are left out.

Recall and curves are undefined for a class without images in the part. A curve is also undefined for a label that all
images have, and R² for a number that does not vary. `results.left_out` lists these outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix, MultilabelConfusionMatrix
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override


class MeanArea(Metric):
    """The mean area under a curve over the outputs that some images have and others lack; NaN if there are none.

    Args:
        area: the function of torchmetrics for probabilities [N, K] and labels [N, K].
    """

    full_state_update = False

    def __init__(self, area: Callable[..., Tensor]) -> None:
        super().__init__()
        self.area = area
        self.probabilities: list[Tensor]
        self.truth: list[Tensor]
        self.add_state("probabilities", default=[], dist_reduce_fx="cat")
        self.add_state("truth", default=[], dist_reduce_fx="cat")

    @override
    def update(self, probabilities_BK: Tensor, label: Tensor) -> None:
        """Adds a batch; labels are classes [B], or 1 and 0 [B, K]."""
        self.probabilities.append(probabilities_BK)
        self.truth.append(label.long())

    @override
    def compute(self) -> Tensor:
        predicted_NK, truth = dim_zero_cat(self.probabilities), dim_zero_cat(self.truth)
        truth_NK = F.one_hot(truth, predicted_NK.shape[1]) if truth.ndim == 1 else truth
        has_curve_K = truth_NK.bool().any(0) & ~truth_NK.bool().all(0)
        count = int(has_curve_K.sum())
        if not count:
            return torch.tensor(torch.nan)
        curves = predicted_NK[:, has_curve_K], truth_NK[:, has_curve_K]
        return self.area(*curves, num_labels=count, average="macro", validate_args=False)


class MacroF1(MulticlassConfusionMatrix):
    """The mean F1 over the classes that occur in the part."""

    def __init__(self, classes: int) -> None:
        super().__init__(num_classes=classes, validate_args=False)

    @override
    def compute(self) -> Tensor:
        counts_KK = super().compute().double()
        return _mean_f1(counts_KK.diag(), counts_KK.sum(1), counts_KK.sum(0))


class MacroLabelF1(MultilabelConfusionMatrix):
    """The mean F1 over the labels that occur in the part."""

    def __init__(self, labels: int, **options: Any) -> None:
        super().__init__(num_labels=labels, validate_args=False, **options)

    @override
    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds, target.long())

    def counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """True positives, images with the label, and images predicted to have it, each [K]."""
        counts_K22 = super().compute().double()
        return counts_K22[:, 1, 1], counts_K22[:, 1].sum(1), counts_K22[:, :, 1].sum(1)

    @override
    def compute(self) -> Tensor:
        return _mean_f1(*self.counts())


class MicroLabelF1(MacroLabelF1):
    """F1 over all labels together; NaN if no image has any."""

    @override
    def compute(self) -> Tensor:
        return _mean_f1(*(counted.sum()[None] for counted in self.counts()))


class MeanR2(Metric):
    """R² (1 minus the squared error over the variance), averaged over the numbers that vary in the part; NaN if none
    does.

    It is computed in double precision from distances to a point nearby, because a difference of large squares would
    lose its digits.

    Args:
        near_K: a value close to each number, such as its mean over the training images.
    """

    full_state_update = False

    def __init__(self, near_K: Tensor) -> None:
        super().__init__()
        self.near_K: Tensor
        self.register_buffer("near_K", near_K.double(), persistent=False)
        zeros = torch.zeros(len(near_K), dtype=torch.float64)
        for name in ("total", "squares", "errors"):
            self.add_state(name, default=zeros.clone(), dist_reduce_fx="sum")
        self.total: Tensor
        self.squares: Tensor
        self.errors: Tensor
        self.lowest: Tensor
        self.highest: Tensor
        self.images: Tensor
        self.add_state("lowest", default=zeros + torch.inf, dist_reduce_fx="min")
        self.add_state("highest", default=zeros - torch.inf, dist_reduce_fx="max")
        self.add_state("images", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @override
    def update(self, said_BK: Tensor, true_BK: Tensor) -> None:
        distance_BK = true_BK.double() - self.near_K
        self.total += distance_BK.sum(0)
        self.squares += distance_BK.square().sum(0)
        self.errors += (said_BK.double() - true_BK.double()).square().sum(0)
        self.lowest = torch.minimum(self.lowest, true_BK.double().amin(0))
        self.highest = torch.maximum(self.highest, true_BK.double().amax(0))
        self.images += len(true_BK)

    @override
    def compute(self) -> Tensor:
        varies_K = self.highest > self.lowest
        spread_K = self.squares - self.total.square() / self.images
        return (1 - self.errors[varies_K] / spread_K[varies_K]).mean()  # of nothing: NaN


def _mean_f1(hits_K: Tensor, support_K: Tensor, said_K: Tensor) -> Tensor:
    present_K = support_K > 0
    return (2 * hits_K[present_K] / (support_K + said_K)[present_K]).mean()  # of nothing: NaN
