"""What is measured: sums in training, torchmetrics in evaluation; all stays on the device until an epoch ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

from graft.config.faults import InputError, nearest

FIGURES = ("loss", "accuracy", "f1", "auroc")
MONITORED = (*(f"val/{figure}" for figure in FIGURES), "train/loss", "train/accuracy")


def check_monitor(monitor: str, direction: str) -> None:
    """Raises InputError unless a checkpoint can be chosen by this."""
    if monitor not in MONITORED:
        near = nearest(monitor, MONITORED, 1) or ["val/loss"]
        reason = " (a choice made on test would flatter the test)" if monitor.startswith("test/") else ""
        raise InputError(
            f"checkpoint.monitor: expected one of {', '.join(MONITORED)}, received {monitor!r}{reason}; try {near[0]}"
        )
    if direction not in ("min", "max"):
        raise InputError(f"checkpoint.direction: expected min or max, received {direction!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What the network said of one part's images, on the CPU."""

    index: Tensor
    """[N], as the batches give it."""
    label: Tensor
    """[N], hard labels."""
    probabilities: Tensor
    """[N, K], float32."""


class Sums:
    """Loss, correct answers and images of a part so far, as one tensor that the device adds to."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.values = torch.zeros(3, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, label: Tensor, *, leave_out: bool = False) -> None:
        """`loss` is the batch's mean. With `leave_out`, a batch whose loss is not finite does not count."""
        correct = (logits.argmax(1) == label).sum()
        images = torch.full_like(loss, len(label), dtype=torch.float64)
        added = torch.stack([loss.double() * images, correct.double(), images])
        self.values += torch.where(torch.isfinite(loss), added, 0.0) if leave_out else added

    def figures(self, part: str, values: Tensor) -> dict[str, float]:
        loss, correct, images = values.tolist()
        return {f"{part}/loss": loss / images, f"{part}/accuracy": correct / images}


class Evaluation(nn.Module):
    """One part's metrics: loss, accuracy, macro-F1, macro-AUROC and the confusion matrix, on hard labels."""

    def __init__(self, part: str, classes: int) -> None:
        super().__init__()
        self.part = part
        self.classes = classes
        options: dict[str, Any] = {"num_classes": classes, "validate_args": False}
        self.metrics = nn.ModuleDict(
            {
                "accuracy": MulticlassAccuracy(average="micro", **options),
                "f1": MulticlassF1Score(average="macro", **options),
                "auroc": MulticlassAUROC(average="macro", **options),
                "confusion": MulticlassConfusionMatrix(**options),
            }
        )
        self.loss = Sums()
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []
        self.keeps_outputs = False

    def reset(self, device: torch.device | str) -> None:
        self.loss = Sums(device)
        self.seen.clear()
        for metric in self.metrics.values():
            metric.reset()  # pyright: ignore[reportCallIssue]

    def update(self, loss: Tensor, logits: Tensor, label: Tensor, index: Tensor) -> None:
        probabilities = logits.float().softmax(1)
        self.loss.add(loss, logits, label)
        for metric in self.metrics.values():
            metric.update(probabilities, label)  # pyright: ignore[reportCallIssue]
        if self.keeps_outputs:
            self.seen.append((index, label, probabilities))

    def figures(self, sums: Tensor) -> dict[str, float]:
        found = self.loss.figures(self.part, sums)
        for name in ("accuracy", "f1", "auroc"):
            found[f"{self.part}/{name}"] = float(self.metrics[name].compute())  # pyright: ignore[reportCallIssue]
        return found

    def confusion(self) -> list[list[int]]:
        """A row per true class, a column per predicted class."""
        return self.metrics["confusion"].compute().long().tolist()  # pyright: ignore[reportCallIssue]

    def outputs(self) -> Outputs:
        """Of all processes together, each image once, in the order of their indices."""
        index, label, probabilities = (torch.cat(parts).cpu() for parts in zip(*self.seen, strict=True))
        if distributed.is_available() and distributed.is_initialized():
            shares: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(shares, (index, label, probabilities))
            index, label, probabilities = (torch.cat(parts) for parts in zip(*shares, strict=True))
        place = {image: position for position, image in enumerate(index.tolist())}
        order = torch.tensor([place[image] for image in sorted(place)])
        return Outputs(index=index[order], label=label[order], probabilities=probabilities[order])
