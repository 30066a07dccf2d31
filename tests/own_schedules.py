"""Optimizers and schedules as users write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class SignSGD(Optimizer):
    """Steps by the sign of a running mean of the gradient [Bernstein et al. 2018]. It knows no weight decay."""

    def __init__(self, params: Any, lr: float, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        if closure is not None:
            with torch.enable_grad():
                closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                    mean.lerp_(parameter.grad, 1 - group["momentum"])
                    parameter.sub_(group["lr"] * mean.sign())


class WithoutClosure(SignSGD):
    def step(self, closure: Callable[[], float] | None = None) -> None:
        super().step()


def not_an_optimizer(params: Any, lr: float) -> list[float]:
    return [lr]


def quarters(progress: float, lowest: float = 0.25) -> float:
    return max(1 - int(4 * progress) / 4, lowest)


def negative(progress: float) -> float:
    return -progress


def halves(progress: float, later: str = "none") -> str:
    return "backbone" if progress < 0.5 else later


def numbers(progress: float) -> Any:
    return progress
