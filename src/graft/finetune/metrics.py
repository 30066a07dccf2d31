"""What a training measures: losses and the task's metrics by part, and how its time was spent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.profilers import Profiler
from torch import Tensor, distributed, nn
from typing_extensions import override

from graft.config.figures import LOSS, trained_figure
from graft.system.machine import full_float32
from graft.tasks.task import Task

TOGETHER = 32  # batches of an evaluation that are counted at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """The network's predictions for the images of one part, on the CPU."""

    index: Tensor
    """[N], as in the batches."""
    label: Tensor
    """[N] classes, or [N, K] labels or numbers."""
    answers: Tensor
    """[N, K], float32: probabilities, or numbers in their original units."""
    logits: Tensor
    """[N, K], float32: what the network computes, before it is made into answers."""


class Sums:
    """Sums of a part so far (loss, weight, the task's metric, images), as one tensor on the device."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.values = torch.zeros(4, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, scored: Tensor, images: int, weight: Tensor | float | None = None) -> None:
        """Adds a batch: `loss` is its mean, `weight` the total weight of its images, `scored` a sum over them."""
        count = torch.full_like(loss, images, dtype=torch.float64)
        weight = count if weight is None else torch.as_tensor(weight, dtype=torch.float64, device=loss.device)
        self.values += torch.stack([loss.double() * weight, weight, scored.double(), count])


def trained_figures(task: Task, values: Tensor) -> dict[str, float]:
    """Metrics computed from sums over the training images."""
    loss, weight, scored, images = values.tolist()
    figures = {LOSS.name: (loss, weight), trained_figure(task.kind).name: (scored, images)}
    return {f"train/{name}": value / of if of else math.nan for name, (value, of) in figures.items()}


class Evaluation(nn.Module):
    """Metrics of one part: the loss, the task's metrics and, for single_label, the confusion matrix."""

    def __init__(self, part: str, task: Task) -> None:
        super().__init__()
        self.part = part
        self._task = (task,)  # in a tuple: the module that holds this one holds the task too
        self.metrics = nn.ModuleDict(task.every_metric())
        self.counts = task.confusion()
        self.loss = Sums()
        self.unsound = torch.zeros((), dtype=torch.float64)  # images of which some answer is not finite
        self.batches: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._uncounted: list[tuple[Tensor, Tensor]] = []
        self.keeps_outputs = False

    def reset(self, device: torch.device | str) -> None:
        """Clears all sums and moves them to the device."""
        self.loss = Sums(device)
        self.unsound = torch.zeros((), dtype=torch.float64, device=device)
        self.batches.clear()
        self._uncounted.clear()
        for metric in self._all():
            metric.reset()

    def update(self, loss: Tensor, outputs_BK: Tensor, label: Tensor, index: Tensor) -> None:
        """Adds a batch.

        Args:
            loss: mean loss of the batch.
            outputs_BK: the network's outputs.
            label: the truth, [B] classes or [B, K] labels or numbers.
            index: [B], the index of each image in its part.
        """
        task = self._task[0]
        answers_BK = task.answers(outputs_BK)
        self.loss.add(loss, task.scored(outputs_BK, label), len(label))
        self.unsound += (~answers_BK.isfinite().all(1)).sum()
        self._uncounted.append((answers_BK, label))
        if len(self._uncounted) == TOGETHER:
            self._count()
        if self.keeps_outputs:
            self.batches.append((index, label, answers_BK, outputs_BK.float()))

    def _count(self) -> None:
        """Processes several batches at once, because calling torchmetrics takes longer than counting."""
        if self._uncounted:
            answers_NK, label = (torch.cat(parts) for parts in zip(*self._uncounted, strict=True))
            self._uncounted.clear()
            for metric in self._all():
                metric.update(answers_NK, label)

    @property
    def sums(self) -> Tensor:
        """The values that must be summed over all processes for `figures`."""
        return torch.cat([self.loss.values, self.unsound[None]])

    def figures(self, sums: Tensor) -> dict[str, float]:
        """The metrics. NaN marks an undefined one. If any output is not finite, this is every metric except the loss,
        because the output would otherwise count as some class."""
        self._count()
        loss, weight, _, _, unsound = sums.tolist()
        figures = {f"{self.part}/loss": loss / weight}
        for name, metric in self.metrics.items():
            value = math.nan if unsound else float(metric.compute())  # pyright: ignore[reportCallIssue]
            figures[f"{self.part}/{name}"] = value
        return figures

    def _all(self) -> list[Any]:
        return [*self.metrics.values(), *([self.counts] if self.counts is not None else [])]

    def confusion(self) -> list[list[int]] | None:
        """One row per true class, one column per predicted class. None unless the task is single_label."""
        self._count()
        return None if self.counts is None else self.counts.compute().long().tolist()

    def outputs(self) -> Outputs:
        """The predictions of all processes together, each image once, in the order of their indices."""
        index, label, answers, logits = (torch.cat(parts).cpu() for parts in zip(*self.batches, strict=True))
        if distributed.is_available() and distributed.is_initialized():
            shares: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(shares, (index, label, answers, logits))
            index, label, answers, logits = (torch.cat(parts) for parts in zip(*shares, strict=True))
        place = {image: position for position, image in enumerate(index.tolist())}
        order = torch.tensor([place[image] for image in sorted(place)])
        return Outputs(index=index[order], label=label[order], answers=answers[order], logits=logits[order])


Batch = dict[str, Tensor]


class Evaluating(L.LightningModule):
    """Evaluates the result of `evaluated_logits`. The metrics of the last pass are in `row`.

    It runs in float32 whatever the training precision, because the exported network is what is evaluated.

    A batch contains "target" ([B] classes, or [B, K] probabilities, labels or numbers), "index" ([B]), and optionally
    "label" (the truth for metrics, otherwise derived from the target), besides the network's inputs.

    Args:
        task: defines the meaning of targets and outputs.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.evaluations = nn.ModuleDict({part: Evaluation(part, task) for part in ("val", "test")})
        self.row: dict[str, float] = {}

    def evaluated_logits(self, batch: Batch) -> Tensor:
        """Logits of the network as it would be exported."""
        return self(batch["image"])

    @override
    def on_validation_epoch_start(self) -> None:
        self.evaluation("val").reset(self.device)

    @override
    def on_test_epoch_start(self) -> None:
        self.evaluation("test").reset(self.device)

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    @override
    def on_validation_epoch_end(self) -> None:
        self.row = self._figures("val")

    @override
    def on_test_epoch_end(self) -> None:
        self.row = self._figures("test")

    def evaluation(self, part: str) -> Evaluation:
        return cast(Evaluation, self.evaluations[part])

    def over_ranks(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        return cast(Tensor, self.trainer.strategy.reduce(values.clone(), reduce_op="sum"))

    def _evaluate(self, part: str, batch: Batch) -> None:
        with full_float32(self.device):
            logits = self.evaluated_logits(batch)
            loss = self.task.loss(logits.float(), batch["target"])
        self.evaluation(part).update(loss, logits, self.task.label(batch), batch["index"])

    def _figures(self, part: str) -> dict[str, float]:
        evaluation = self.evaluation(part)
        return evaluation.figures(self.over_ranks(evaluation.sums))


# Parts of Lightning's names for what it does, and the share it counts to; the first that fits.
SHARES = (
    ("train_dataloader_next", "data"),
    ("batch_to_device", "data"),
    ("val_next", "evaluation"),
    ("validation", "evaluation"),
    ("checkpoint", "checkpoint"),
    ("training_step", "forward"),
    ("backward", "backward"),
    ("optimizer", "optimizer"),
    ("run_training_epoch", "rest"),
    ("on_train_epoch_end", "rest"),
)


_UNTIMED = nullcontext()


class _Action:
    """A timed action. Lightning's own is a generator, which costs more than many of the hooks that it times."""

    __slots__ = ("name", "shares")

    def __init__(self, shares: Shares, name: str) -> None:
        self.shares, self.name = shares, name

    def __enter__(self) -> str:
        self.shares.start(self.name)
        return self.name

    def __exit__(self, *_: object) -> None:
        self.shares.stop(self.name)


class Shares(Profiler):
    """Seconds of training and evaluation by share. Each action's time excludes that of the actions that it calls.

    On a GPU, a share is the time in which the processor waits or launches work, because no step synchronises with the
    device.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self._now = now
        self._open: list[tuple[str, str | None]] = []
        self._since = 0.0
        self._share_of: dict[str, str | None] = {}  # by action

    @override
    def profile(self, action_name: str) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - a generator there
        # Of the thirty actions of a step, most count to what calls them.
        return _UNTIMED if self._share(action_name) is None else _Action(self, action_name)

    def _share(self, action_name: str) -> str | None:
        if action_name not in self._share_of:
            self._share_of[action_name] = next((share for part, share in SHARES if part in action_name), None)
        return self._share_of[action_name]

    @override
    def start(self, action_name: str) -> None:
        self._account()
        around = self._open[-1][1] if self._open else None
        self._open.append((action_name, self._share(action_name) or around))

    @override
    def stop(self, action_name: str) -> None:
        """Also ends actions inside it that an exception left open."""
        self._account()
        while self._open and self._open.pop()[0] != action_name:
            pass

    def _account(self) -> None:
        now = self._now()
        share = self._open[-1][1] if self._open else None
        if share is not None and now > self._since:
            self.seconds[share] = self.seconds.get(share, 0.0) + now - self._since
        self._since = now

    def shares(self) -> dict[str, float]:
        """Each share as a fraction of the total, largest first."""
        whole = sum(self.seconds.values())
        return {name: seconds / whole for name, seconds in sorted(self.seconds.items(), key=lambda item: -item[1])}
