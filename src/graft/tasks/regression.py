"""data.task=regression: numbers; squared or smooth absolute error of targets standardised over the training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError
from typing_extensions import override

from graft.config.choices import RegressionLoss, TaskKind
from graft.config.schema import LossConfig
from graft.tasks.averages import MeanR2
from graft.tasks.convex import ConvexLoss, SmoothL1, Squared
from graft.tasks.losses import chosen_loss
from graft.tasks.task import Criterion, Task, listed


class Regression(Task):
    """Outputs are (number − mean) / std, and predictions the numbers in their original units.

    Numbers of any magnitude are therefore learnt at the same learning rates, and several have the same weight. The mean
    and standard deviation over the training images are stored with the model.

    Args:
        mean: mean of each number over the training images.
        std: its standard deviation there.
    """

    kind: ClassVar[TaskKind] = TaskKind.regression

    def __init__(self, names: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(names)
        assert len(names) == len(mean) == len(std), "a mean and a deviation for each number"
        self._scaling = {"mean": list(mean), "std": list(std)}
        self.mean_K: Tensor
        self.std_K: Tensor
        self.register_buffer("mean_K", torch.tensor(mean), persistent=False)
        self.register_buffer("std_K", torch.tensor(std), persistent=False)

    @classmethod
    @override
    def learnt(cls, names: Sequence[str], labels: Sequence[Any]) -> Self:
        held_NK = torch.tensor(labels, dtype=torch.float64)
        return cls(names, held_NK.mean(0).tolist(), held_NK.std(0, correction=0).tolist())

    @classmethod
    @override
    def recorded(cls, names: Sequence[str], record: Mapping[str, Any]) -> Self:
        mean, std = ([float(value) for value in record[key]] for key in ("mean", "std"))
        if not len(names) == len(mean) == len(std):
            raise ValueError(f"{len(names)} numbers, {len(mean)} means and {len(std)} deviations")
        return cls(names, mean, std)

    @override
    def record(self) -> dict[str, Any]:
        return {**super().record(), **self._scaling}

    @override
    def described(self) -> str:
        return f"{len(self.names)} number{'s' if len(self.names) > 1 else ''} to learn ({listed(self.names)})"

    @override
    def criterion(self, config: LossConfig) -> Criterion:
        example = torch.zeros(2, len(self.names)), torch.ones(2, len(self.names))
        return chosen_loss(
            config, lambda: StandardisedError(self, config.regression), example, prepared=self.standardised
        )

    @override
    def loss(self, outputs_BK: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(outputs_BK, self.standardised(target))

    @override
    def scored(self, outputs_BK: Tensor, label: Tensor) -> Tensor:
        """The absolute error, averaged over an image's numbers and summed over the images."""
        return (self.answers(outputs_BK) - label).abs().mean(1).sum()

    @override
    def answers(self, outputs_BK: Tensor) -> Tensor:
        return outputs_BK.float() * self.std_K.to(outputs_BK.device) + self.mean_K.to(outputs_BK.device)

    @override
    def judged(self, answers_NK: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """In units of the standard deviation over the training images, because numbers may have different units."""
        error_NK = self.standardised(answers_NK.double().cpu()) - self.standardised(label.double().cpu())
        loss_N = error_NK.square().mean(1)
        return -loss_N, loss_N

    def standardised(self, target_BK: Tensor) -> Tensor:
        return (target_BK - self.mean_K) / self.std_K

    @override
    def metrics(self) -> dict[str, Metric]:
        return {"mae": MeanAbsoluteError(), "rmse": _RootOfMeans(len(self.names)), "r2": MeanR2(self.mean_K)}


class _RootOfMeans(MeanSquaredError):
    """The root mean squared error of each number, averaged over the numbers."""

    def __init__(self, numbers: int) -> None:
        super().__init__(squared=False, num_outputs=numbers)

    @override
    def compute(self) -> Tensor:
        return super().compute().mean()


class StandardisedError(Criterion):
    def __init__(self, task: Regression, kind: RegressionLoss) -> None:
        super().__init__()
        self._task = (task,)  # in a tuple: the module that holds this one holds the task too
        self.error = F.mse_loss if kind is RegressionLoss.mse else F.smooth_l1_loss

    @override
    def convex(self, target: Tensor, outputs: int, weight_N: Tensor | None = None) -> ConvexLoss:
        """Numbers [N, K] in their units."""
        image_N1 = None if weight_N is None else weight_N.double()[:, None]
        standardised_NK = self._task[0].standardised(target).double()
        total = float(len(target) if image_N1 is None else image_N1.sum()) * outputs
        kind = Squared if self.error is F.mse_loss else SmoothL1
        return kind(total, standardised_NK, image_N1)

    @override
    def forward(self, outputs_BK: Tensor, target: Tensor) -> Tensor:
        return self.error(outputs_BK, self._task[0].standardised(target))
