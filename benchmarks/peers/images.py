"""A task's images by torchvision's own classes, which most peers' documentation uses."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.task import Task


def folder(task: Task, part: str) -> ImageFolder:
    """A part, decoded by Pillow; varied where the task leaves that to the peer, as the tutorials do it."""
    size = task.image_size
    varied = part == "train" and task.own_defaults
    first = (
        [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
        if varied
        else [transforms.Resize(size), transforms.CenterCrop(size)]
    )
    steps = [*first, transforms.ToTensor(), transforms.Normalize(task.mean, task.std)]
    return ImageFolder(str(Path(task.images) / part), transforms.Compose(steps))


def loader(task: Task, part: str) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of a part, shuffled for training. No workers: the cores are the training's."""
    return DataLoader(folder(task, part), batch_size=task.batch_size, shuffle=part == "train")


def last_part(task: Task) -> str:
    """The part that the accuracy is taken on."""
    return "test" if (Path(task.images) / "test").is_dir() else "val"
