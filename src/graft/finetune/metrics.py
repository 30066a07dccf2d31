"""What is measured: sums in training, torchmetrics in evaluation; all stays on the device until an epoch ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from graft.config.figures import LOSS, trained_figure
from graft.tasks import Task

TOGETHER = 32  # batches of an evaluation that are counted at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What the network said of one part's images, on the CPU."""

    index: Tensor
    """[N], as the batches give it."""
    label: Tensor
    """[N] classes, or [N, K] labels or numbers."""
    answers: Tensor
    """[N, K], float32: probabilities, or numbers in their units."""


class Sums:
    """Loss, weight, the task's figure and images of a part so far, as one tensor that the device adds to."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.values = torch.zeros(4, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, scored: Tensor, images: int, weight: Tensor | float | None = None) -> None:
        """`loss` is the batch's mean, `weight` what its images weigh in it together, `scored` a sum over them."""
        count = torch.full_like(loss, images, dtype=torch.float64)
        weight = count if weight is None else torch.as_tensor(weight, dtype=torch.float64, device=loss.device)
        self.values += torch.stack([loss.double() * weight, weight, scored.double(), count])


def trained_figures(task: Task, values: Tensor) -> dict[str, float]:
    """What sums over the training images come to."""
    loss, weight, scored, images = values.tolist()
    figures = {LOSS.name: (loss, weight), trained_figure(task.kind).name: (scored, images)}
    return {f"train/{name}": value / of if of else math.nan for name, (value, of) in figures.items()}


class Evaluation(nn.Module):
    """One part's figures: the loss, the task's metrics and, where an image has one class, the confusion matrix."""

    def __init__(self, part: str, task: Task) -> None:
        super().__init__()
        self.part = part
        self._task = (task,)  # in a tuple: the module that holds this one holds the task too
        self.metrics = nn.ModuleDict(task.metrics())
        self.counts = task.confusion()
        self.loss = Sums()
        self.unsound = torch.zeros((), dtype=torch.float64)  # images of which some answer is not finite
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []
        self._uncounted: list[tuple[Tensor, Tensor]] = []
        self.keeps_outputs = False

    def reset(self, device: torch.device | str) -> None:
        self.loss = Sums(device)
        self.unsound = torch.zeros((), dtype=torch.float64, device=device)
        self.seen.clear()
        self._uncounted.clear()
        for metric in self._all():
            metric.reset()

    def update(self, loss: Tensor, outputs_BK: Tensor, label: Tensor, index: Tensor) -> None:
        task = self._task[0]
        answers_BK = task.answers(outputs_BK)
        self.loss.add(loss, task.scored(outputs_BK, label), len(label))
        self.unsound += (~answers_BK.isfinite().all(1)).sum()
        self._uncounted.append((answers_BK, label))
        if len(self._uncounted) == TOGETHER:
            self._count()
        if self.keeps_outputs:
            self.seen.append((index, label, answers_BK))

    def _count(self) -> None:
        """Several batches at once: torchmetrics takes longer to be called than to count."""
        if self._uncounted:
            answers_NK, label = (torch.cat(parts) for parts in zip(*self._uncounted, strict=True))
            self._uncounted.clear()
            for metric in self._all():
                metric.update(answers_NK, label)

    @property
    def sums(self) -> Tensor:
        """What `figures` needs the sum of over all processes."""
        return torch.cat([self.loss.values, self.unsound[None]])

    def figures(self, sums: Tensor) -> dict[str, float]:
        """NaN is what cannot be computed: every figure but the loss where an answer is not finite, which would
        count as some class.
        """
        self._count()
        loss, weight, _, _, unsound = sums.tolist()
        found = {f"{self.part}/loss": loss / weight}
        for name, metric in self.metrics.items():
            value = math.nan if unsound else float(metric.compute())  # pyright: ignore[reportCallIssue]
            found[f"{self.part}/{name}"] = value
        return found

    def _all(self) -> list[Any]:
        return [*self.metrics.values(), *([self.counts] if self.counts is not None else [])]

    def confusion(self) -> list[list[int]] | None:
        """A row per true class, a column per predicted class; None where an image has not one class."""
        self._count()
        return None if self.counts is None else self.counts.compute().long().tolist()

    def outputs(self) -> Outputs:
        """Of all processes together, each image once, in the order of their indices."""
        index, label, answers = (torch.cat(parts).cpu() for parts in zip(*self.seen, strict=True))
        if distributed.is_available() and distributed.is_initialized():
            shares: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(shares, (index, label, answers))
            index, label, answers = (torch.cat(parts) for parts in zip(*shares, strict=True))
        place = {image: position for position, image in enumerate(index.tolist())}
        order = torch.tensor([place[image] for image in sorted(place)])
        return Outputs(index=index[order], label=label[order], answers=answers[order])
