"""The loop of PyTorch's "Transfer Learning for Computer Vision Tutorial".

Its transforms, SGD with momentum, the rate divided by ten every seven epochs, a `.item()` a step, and `model.train()`
for the frozen layers too. Left out: the best epoch's weights; those of the last go to the disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from graft.benchmark.peers.images import last_part, loader
from graft.benchmark.peers.network import network_of
from graft.benchmark.peers.stopwatch import Stopwatch
from graft.benchmark.task import Outcome, Task


def train(task: Task, weights: Path) -> Outcome:
    torch.set_num_threads(task.threads)
    loaders = {part: loader(task, part) for part in ("train", "val")}
    classes = len(loaders["train"].dataset.classes)  # pyright: ignore[reportAttributeAccessIssue]
    model = network_of(task, classes)
    criterion = nn.CrossEntropyLoss()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer: optim.Optimizer = (
        optim.SGD(trained, lr=0.001, momentum=0.9) if task.own_defaults else optim.Adam(trained, lr=task.lr)
    )
    scheduler = lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    watch = Stopwatch()
    for _ in range(task.epochs):
        watch.begin()
        _pass(model, loaders["train"], criterion, optimizer)
        if task.own_defaults:
            scheduler.step()
        watch.trained()
        _pass(model, loaders["val"], criterion, None)
        watch.evaluated()
    torch.save(model.state_dict(), weights)
    watch.saved()
    accuracy = _pass(model, loader(task, last_part(task)), criterion, None)
    return watch.outcome(accuracy=accuracy, images=len(loaders["train"].dataset))  # pyright: ignore[reportArgumentType]


def _pass(model: nn.Module, batches: Any, criterion: nn.Module, optimizer: optim.Optimizer | None) -> float:
    """The share of the images that it got right."""
    model.train(optimizer is not None)
    running_loss, running_corrects, images = 0.0, 0, 0
    for inputs, labels in batches:
        if optimizer is not None:
            optimizer.zero_grad()
        with torch.set_grad_enabled(optimizer is not None):
            outputs = model(inputs)
            _, predicted = torch.max(outputs, 1)
            loss = criterion(outputs, labels)
            if optimizer is not None:
                loss.backward()
                optimizer.step()
        running_loss += loss.item() * len(inputs)
        running_corrects += int(torch.sum(predicted == labels))
        images += len(inputs)
    return running_corrects / images
