"""The loop of PyTorch's "Transfer Learning for Computer Vision Tutorial".

Its transforms, SGD with momentum, the rate divided by ten every seven epochs, a `.item()` a step, and `model.train()`
for the frozen layers too. Left out: the best epoch's weights; those of the last go to the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from benchmarks.peers.images import last_part, loader
from benchmarks.peers.network import network_of
from benchmarks.peers.stopwatch import Stopwatch
from benchmarks.task import Outcome, Task


class Loop:
    """Its network, its criterion, its optimizer and their step."""

    def __init__(self, task: Task, classes: int) -> None:
        self.model, self.criterion = network_of(task, classes), nn.CrossEntropyLoss()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer: optim.Optimizer = (
            optim.SGD(trained, lr=0.001, momentum=0.9) if task.own_defaults else optim.Adam(trained, lr=task.lr)
        )

    def step(self, inputs: torch.Tensor, labels: torch.Tensor, *, training: bool = True) -> tuple[float, int]:
        """The batch's loss, over all its images, and how many of them it got right."""
        if training:
            self.optimizer.zero_grad()
        with torch.set_grad_enabled(training):
            outputs = self.model(inputs)
            _, predicted = torch.max(outputs, 1)
            loss = self.criterion(outputs, labels)
            if training:
                loss.backward()
                self.optimizer.step()
        return loss.item() * len(inputs), int(torch.sum(predicted == labels))


def train(task: Task, weights: Path, watch: Stopwatch) -> Outcome:
    torch.set_num_threads(task.threads)
    loaders = {part: loader(task, part) for part in ("train", "val")}
    loop = Loop(task, len(loaders["train"].dataset.classes))  # pyright: ignore[reportAttributeAccessIssue]
    scheduler = lr_scheduler.StepLR(loop.optimizer, step_size=7, gamma=0.1)
    for _ in range(task.epochs):
        watch.begin()
        _pass(loop, loaders["train"], training=True, stepped=watch.stepped)
        if task.own_defaults:
            scheduler.step()
        watch.trained()
        _pass(loop, loaders["val"], training=False)
        watch.evaluated()
    torch.save(loop.model.state_dict(), weights)
    watch.saved()
    accuracy = _pass(loop, loader(task, last_part(task)), training=False)
    return watch.outcome(accuracy=accuracy, images=len(loaders["train"].dataset))  # pyright: ignore[reportArgumentType]


def _pass(loop: Loop, batches: Any, *, training: bool, stepped: Callable[[], object] = lambda: None) -> float:
    """The share of the images that it got right."""
    loop.model.train(training)
    running_loss, running_corrects, images = 0.0, 0, 0
    for inputs, labels in batches:
        loss, corrects = loop.step(inputs, labels, training=training)
        running_loss += loss
        running_corrects += corrects
        images += len(inputs)
        stepped()
    return running_corrects / images
