"""Training losses besides the tasks' own: focal loss, adjusted logits, and a user's own by import path.

None of them is solved: `convex` refuses, and the plan trains by steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from graft.config.choices import LossKind
from graft.config.faults import InputError
from graft.config.import_path import OwnCode, function_of
from graft.config.schema import LossConfig
from graft.tasks.convex import ConvexLoss
from graft.tasks.task import Criterion

KEY = "loss.target"


class Steps(Criterion):
    """A loss for gradient steps alone."""

    @override
    def convex(self, target: Tensor, outputs: int, weight_N: Tensor | None = None) -> ConvexLoss:
        raise ValueError("a loss that is only trained by steps; try loss=task")


class Focal(Steps):
    """`(1 − p)^γ` times the cross-entropy, p being the probability of the truth [Lin et al. 2017].

    Args:
        plain: the task's cross-entropy, whose weights count.
        several: any number of labels an image (sigmoids) instead of one class.
    """

    def __init__(self, config: LossConfig, plain: Criterion, *, several: bool) -> None:
        super().__init__()
        self.config, self.plain, self.several = config, plain, several

    @override
    def weights(self, target: Tensor) -> Tensor | None:
        return self.plain.weights(target)

    @override
    def forward(self, outputs_BK: Tensor, target: Tensor) -> Tensor:
        gamma, smoothing, outputs = self.config.gamma, self.config.label_smoothing, outputs_BK.shape[1]
        weight_K: Any = getattr(self.plain, "weight", None)
        if self.several:
            truth_BK = target * (1 - smoothing) + smoothing / 2
            yes_BK = truth_BK * (1 if weight_K is None else weight_K) * F.logsigmoid(outputs_BK)
            no_BK = (1 - truth_BK) * F.logsigmoid(-outputs_BK)
            p_BK = outputs_BK.sigmoid()
            return -((1 - p_BK) ** gamma * yes_BK + p_BK**gamma * no_BK).mean()
        share_BK = F.one_hot(target, outputs).to(outputs_BK.dtype) if target.ndim == 1 else target
        share_BK = share_BK * (1 - smoothing) + smoothing / outputs
        log_BK = outputs_BK.log_softmax(1)
        loss_BK = -share_BK * (1 - log_BK.exp()) ** gamma * log_BK
        weights = self.weights(target)
        if weights is None:
            return loss_BK.sum(1).mean()
        return (loss_BK * weight_K).sum() / weights.sum()


class LogitAdjusted(Steps):
    """Cross-entropy of `logits + τ log π`, π being each class's fraction of the training images [Menon et al. 2021,
    eq. 10]. The network's own logits then balance the classes."""

    def __init__(self, config: LossConfig, plain: Criterion, counts: Sequence[int] | None) -> None:
        super().__init__()
        if not counts or min(counts) <= 0:
            raise InputError(
                f"loss: expected training images of every class with logit_adjusted, received counts {counts}; try "
                "loss=task"
            )
        self.plain = plain
        self.shift_K: Tensor
        counts_K = torch.tensor(counts, dtype=torch.float64)
        self.register_buffer("shift_K", (config.tau * (counts_K / counts_K.sum()).log()).float(), persistent=False)

    @override
    def weights(self, target: Tensor) -> Tensor | None:
        return self.plain.weights(target)

    @override
    def forward(self, outputs_BK: Tensor, target: Tensor) -> Tensor:
        return self.plain(outputs_BK + self.shift_K, target)


class OwnLoss(Steps):
    """The loss of loss.target. It is called once with outputs of zero, so that a mistake shows before training.

    Args:
        example: outputs and targets of two images.
        prepared: what the targets are turned into first (standardised numbers, in regression).
    """

    def __init__(
        self,
        config: LossConfig,
        example: tuple[Tensor, Tensor],
        prepared: Callable[[Tensor], Tensor] = lambda target: target,
    ) -> None:
        super().__init__()
        self.path, self.prepared = str(config.target), prepared
        self.function = function_of(KEY, self.path, config.kwargs, *example)
        if isinstance(self.function, nn.Module) and any(True for _ in self.function.parameters()):
            raise InputError(
                f"{KEY}: expected a loss without parameters, as no optimizer would train them, received {self.path}; "
                "try buffers, or loss.kwargs"
            )
        with OwnCode(f"{KEY}: expected {self.path} to give a loss of outputs {list(example[0].shape)}"):
            value = self._call(example[0].requires_grad_(), example[1])
        if not value.requires_grad:
            raise InputError(f"{KEY}: expected a loss with a gradient, received one without from {self.path}")

    def _call(self, outputs_BK: Tensor, target: Tensor) -> Tensor:
        value = self.function(outputs_BK, self.prepared(target))
        if not isinstance(value, Tensor) or tuple(value.shape) not in ((), (len(outputs_BK),)):
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"{KEY}: expected {self.path} to return the mean, or a loss for each of {len(outputs_BK)} images, "
                f"received {shape}"
            )
        return value.mean()

    @override
    def forward(self, outputs_BK: Tensor, target: Tensor) -> Tensor:
        return self._call(outputs_BK, target)


def chosen_loss(
    config: LossConfig,
    plain: Callable[[], Criterion],
    example: tuple[Tensor, Tensor],
    *,
    counts: Sequence[int] | None = None,
    several: bool = False,
    prepared: Callable[[Tensor], Tensor] = lambda target: target,
) -> Criterion:
    """The criterion of a config: the task's own, or the one that loss.kind names in its place."""
    if config.kind is LossKind.custom:
        return OwnLoss(config, example, prepared)
    if config.kind is LossKind.focal:
        return Focal(config, plain(), several=several)
    return LogitAdjusted(config, plain(), counts) if config.kind is LossKind.logit_adjusted else plain()
