"""The loss of a step: one mean over its images, however they are divided into micro-batches and processes."""

from __future__ import annotations

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, distributed
from torch.optim import Optimizer


class StepMean:
    """Computes `Σ wᵢ lᵢ / Σ wᵢ` over all images of a step from each batch's own mean.

    Lightning divides the sum over a step's batches by trainer.accumulate, and a distributed wrapper takes the mean over
    processes, as if all had images with the same total weight. A batch's mean is therefore multiplied by its weight,
    relative to the step's first batch. The total weight of the step is known only with its last batch. Until then,
    trainer.accumulate batches with the weight of the first are assumed, and the gradients are corrected afterwards.
    """

    def __init__(self) -> None:
        self.start(1, 1)

    def start(self, accumulate: int, processes: int) -> None:
        """Starts a step of up to `accumulate` batches on each of the processes."""
        self.accumulate, self.processes = accumulate, processes
        self._first: Tensor | float | None = None  # what the first batch weighs, on all processes together
        self._total: Tensor | float = 0.0

    def share(self, mean: Tensor, weight: Tensor | float) -> Tensor:
        """The contribution of a batch to the step's loss.

        Args:
            mean: mean over this process's images, including all added terms.
            weight: total weight of these images.
        """
        if self._needs_nothing:
            return mean
        everywhere = weight
        if self.processes > 1:
            everywhere = torch.as_tensor(weight, dtype=torch.float32, device=mean.device).clone()
            distributed.all_reduce(everywhere)
        if self._first is None:
            self._first = everywhere
        self._total = self._total + everywhere
        return mean * (weight * self.processes / self._first)

    @property
    def correction(self) -> Tensor | float:
        """The factor that turns the sum of the step's batches so far, divided by `accumulate`, into their mean."""
        return 1.0 if self._first is None else self._first * self.accumulate / self._total

    def correct(self, optimizer: Optimizer | LightningOptimizer) -> None:
        """Mutates the gradients of a completed step."""
        factor = self.correction
        if self.accumulate == 1 or (isinstance(factor, float) and factor == 1.0):
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)

    @property
    def _needs_nothing(self) -> bool:
        """Whether a step consists of a single batch."""
        return self.accumulate == self.processes == 1
