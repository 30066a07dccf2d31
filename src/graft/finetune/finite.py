"""Detects losses and gradients that are not finite, without synchronising with the device, and handles them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.linalg import vector_norm
from torch.nn.utils import get_total_norm

from graft.config.choices import OnError
from graft.config.faults import RunFailed
from graft.finetune.groups import Group

_FINE = torch.tensor(False)


class Finite:
    """Checks every step before it is applied.

    A loss that is not finite makes its gradients NaN. Gradients are averaged over all processes, so all of them reach
    the same verdict in the same step. On a GPU, the result stays on the device until `check`, unless it is needed at
    once (with trainer.on_nan=skip). On a CPU it is available at no cost.

    Args:
        scaled: whether a gradient scaler is used (16-mixed). It produces infinite gradients by design and skips these
            steps itself, so only the loss is checked.
    """

    def __init__(
        self, network: nn.Module, groups: Sequence[Group], on_nan: OnError, *, patience: int, scaled: bool = False
    ) -> None:
        self.network, self.groups, self.on_nan, self.scaled = network, list(groups), on_nan, scaled
        named = dict(network.named_parameters(remove_duplicate=False))
        self._members = [[named[name] for name in group.names] for group in groups]
        self.patience = patience
        """Steps in a row that may be skipped."""
        self.skipped = 0
        """Steps left out."""
        self._in_a_row = 0
        self._statistics: list[tuple[Tensor, Tensor]] = []
        self._bad_loss: Tensor | None = None
        self._first: Tensor | None = None  # [1 + groups]: the first bad step (-1: none), and what was bad in it

    def before_step(self) -> None:
        """Called before the first batch of a step. A skipped step must not change batch-norm statistics."""
        if self.on_nan is OnError.skip:
            self._statistics = [(buffer, buffer.clone()) for buffer in self.network.buffers()]

    def watch(self, loss: Tensor) -> Tensor:
        """The loss to train on: unchanged, or with NaN as its gradients."""
        if loss.device.type == "cpu" and math.isfinite(loss.item()):  # a look costs less than what stands below
            self._bad_loss = _FINE if self._bad_loss is None else self._bad_loss
            return loss
        bad = ~torch.isfinite(loss.detach())
        self._bad_loss = bad if self._bad_loss is None else self._bad_loss | bad
        return loss * torch.where(bad, math.nan, 1.0).to(loss.dtype)

    def judge(self, step: int) -> bool:
        """Whether the step may be applied; called when its gradients are complete. If not, the gradients are removed.

        Args:
            step: number of steps before this one.

        Raises:
            RunFailed: a value is not finite and trainer.on_nan=stop.
        """
        if self._waits_for_nothing() and self._is_fine():
            self._bad_loss, self._in_a_row = None, 0
            return True
        bad = self._verdict()  # [1 + groups], bool
        self._bad_loss = None
        if bad.device.type != "cpu" and self.on_nan is OnError.stop:
            now = torch.cat([torch.full_like(bad[:1], 1), bad[1:]]).long()
            now[0] = step
            first = self._first if self._first is not None else torch.full_like(now, -1)
            self._first = torch.where((first[0] < 0) & bad.any(), now, first)
            return True
        if not bool(bad.any()):
            self._in_a_row = 0
            return True
        if self.on_nan is OnError.stop:
            raise self._failed(step, bad[1:].tolist())
        self._leave_out(step)
        return False

    def check(self, step: int) -> None:
        """Raises RunFailed if a step or the weights were not finite. It synchronises with the device, so no step calls
        it.

        Args:
            step: number of steps so far.
        """
        if self.on_nan is OnError.stop and self._first is not None:
            if distributed.is_available() and distributed.is_initialized():
                distributed.all_reduce(self._first, distributed.ReduceOp.MAX)
            first, *bad = self._first.tolist()
            if first >= 0:
                raise self._failed(first, bad)
        bad = [not all(_is_finite(parameter.detach()) for parameter in members) for members in self._members]
        if any(bad):
            raise RunFailed(
                f"the weights became NaN or infinite after step {step} ({self._names(bad)}); checkpoints written"
                " before are intact; try a lower optimizer.lr or trainer.clip_norm=1"
            )

    def state(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]

    def _waits_for_nothing(self) -> bool:
        """Whether reading a value does not synchronise with a device."""
        return self._bad_loss is not None and self._bad_loss.device.type == "cpu" and not self.scaled

    def _is_fine(self) -> bool:
        """Whether loss and gradients are certainly finite. Finite values may be so large that their squares are not.

        It uses the sum of squares: finding the largest value takes twelve times as long on a CPU.
        """
        grads = (parameter.grad for members in self._members for parameter in members if parameter.grad is not None)
        norms = [vector_norm(grad) for grad in grads]
        return self._bad_loss is _FINE and (not norms or math.isfinite(torch.stack(norms).sum().item()))

    def _verdict(self) -> Tensor:
        assert self._bad_loss is not None, "a step has at least one batch"
        if self.scaled:
            return torch.stack([self._bad_loss, *(torch.zeros_like(self._bad_loss) for _ in self.groups)])
        grads = [[parameter.grad for parameter in group if parameter.grad is not None] for group in self._members]
        largest = [get_total_norm(group, math.inf).to(self._bad_loss.device) for group in grads]
        return torch.stack([self._bad_loss, *(~torch.isfinite(norm) for norm in largest)])

    def _leave_out(self, step: int) -> None:
        self.skipped += 1
        self._in_a_row += 1
        for parameter in self.network.parameters():
            parameter.grad = None  # optimizers pass over what has none: no decay, no momentum
        for buffer, value in self._statistics:
            buffer.copy_(value)
        if self._in_a_row >= self.patience:
            raise RunFailed(
                f"the loss or its gradients were NaN or infinite in {self._in_a_row} steps on end, up to step"
                f" {step + 1}; checkpoints written before are intact; try a lower optimizer.lr, or look at the images"
            )

    def _failed(self, step: int, bad: Sequence[Any]) -> RunFailed:
        what = f"the gradients of {self._names(bad)}" if any(bad) else "the loss"
        return RunFailed(
            f"{what} became NaN or infinite in step {step + 1}; checkpoints written before are intact; try a lower"
            " optimizer.lr, a longer scheduler.warmup, trainer.clip_norm=1, or trainer.on_nan=skip"
        )

    def _names(self, bad: Sequence[Any]) -> str:
        named = [group.name for group, is_bad in zip(self.groups, bad, strict=True) if is_bad]
        if len(named) == len(self.groups) > 1:
            return "every group"
        shown = ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")
        return f"{'groups' if len(named) > 1 else 'group'} {shown}"


def _is_finite(tensor: Tensor) -> bool:
    """Whether every number is finite, by the sum of squares, which is faster, unless that overflows."""
    return math.isfinite(vector_norm(tensor).item()) or bool(tensor.isfinite().all())
