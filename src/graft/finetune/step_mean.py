"""The loss of a step: one mean over its images, whichever micro-batches and processes they come in."""

from __future__ import annotations

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, distributed
from torch.optim import Optimizer


class StepMean:
    """Makes `Σ wᵢ lᵢ / Σ wᵢ` over all images of a step out of each batch's own mean.

    Lightning divides the sum of a step's batches by trainer.accumulate, and a distributed wrapper takes the mean over
    processes, as if all held images of the same weight. So a batch's mean is multiplied by its weight, over that of the
    step's first batch. What the step weighs is known with its last batch: until then, as many batches as
    trainer.accumulate says count as heavy as the first one, and then the gradients are corrected.
    """

    def __init__(self) -> None:
        self.start(1, 1)

    def start(self, accumulate: int, processes: int) -> None:
        """A step of up to `accumulate` batches begins, each on so many processes."""
        self.accumulate, self.processes = accumulate, processes
        self._first: Tensor | float | None = None  # what the first batch weighs, on all processes together
        self._total: Tensor | float = 0.0

    def share(self, mean: Tensor, weight: Tensor | float) -> Tensor:
        """What a batch adds to the step's loss.

        Args:
            mean: of this process's images, with all that is added to it.
            weight: what these weigh together.
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
        """The factor that makes the sum of the step's batches so far, over `accumulate`, their mean."""
        return 1.0 if self._first is None else self._first * self.accumulate / self._total

    def correct(self, optimizer: Optimizer | LightningOptimizer) -> None:
        """Mutates the gradients of a step that is through."""
        factor = self.correction
        if self.accumulate == 1 or (isinstance(factor, float) and factor == 1.0):
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)

    @property
    def _needs_nothing(self) -> bool:
        """Whether a step is one batch."""
        return self.accumulate == self.processes == 1
