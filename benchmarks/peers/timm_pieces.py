"""timm's train.py, which its package does not ship, of the public pieces that it is written with.

Datasets, loaders, optimizer, scheduler and task are timm's, with that script's defaults: SGD with momentum at a rate
that goes by the batch size, smoothed labels, random resized crops, flips and colour jitter, cosine rates. Left out: its
log, its checkpoints of each epoch, and its workers (four there, none here, as for every peer: the cores are the
training's).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_dataset, create_loader  # pyright: ignore[reportPrivateImportUsage]
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
from timm.scheduler import create_scheduler_v2  # pyright: ignore[reportPrivateImportUsage]
from timm.task import ClassificationTask
from timm.utils import AverageMeter, accuracy, freeze  # pyright: ignore[reportPrivateImportUsage]
from torch import nn

from benchmarks.peers.images import last_part
from benchmarks.peers.network import is_trained
from benchmarks.peers.stopwatch import Stopwatch
from benchmarks.task import Outcome, Task


def train(task: Task, weights: Path, watch: Stopwatch) -> Outcome:
    torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)
    parts = {part: _loader(task, part) for part in ("train", "val")}
    classes = len(parts["train"].dataset.reader.class_to_idx)
    model = timm.create_model(
        task.model, pretrained=True, pretrained_cfg_overlay={"file": task.donor}, num_classes=classes
    )
    if task.trains:
        freeze(model, [name for name, _ in model.named_children() if not is_trained(task, f"{name}.")])
    smoothing = 0.1 if task.own_defaults else 0.0
    training = ClassificationTask(
        model, criterion_kwargs={"smoothing": smoothing}, device=torch.device("cpu"), verbose=False
    )
    optimizer = (
        create_optimizer_v2(model, opt="sgd", lr=0.1 * task.batch_size / 256, momentum=0.9, weight_decay=2e-5)
        if task.own_defaults
        else create_optimizer_v2(model, opt="adamw", lr=task.lr)
    )
    scheduler, _ = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=task.epochs, updates_per_epoch=len(parts["train"])
    )
    losses = AverageMeter()
    for epoch in range(task.epochs):
        watch.begin()
        training.train()
        for image, target in parts["train"]:
            loss = training(image, target)["loss"]
            losses.update(loss.item(), len(image))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            watch.stepped()
        watch.trained()
        _validate(model, parts["val"])
        if scheduler is not None:
            scheduler.step(epoch + 1)
        watch.evaluated()
    torch.save({"state_dict": model.state_dict()}, weights)
    watch.saved()
    reached = _validate(model, _loader(task, last_part(task)))
    return watch.outcome(accuracy=reached, images=len(parts["train"].dataset))


def _loader(task: Task, part: str) -> Any:
    size = (3, task.image_size, task.image_size)
    dataset: Any = create_dataset("", root=task.images, split=part, is_training=part == "train")
    return create_loader(
        dataset, input_size=size, batch_size=task.batch_size, is_training=part == "train", no_aug=not task.own_defaults,
        mean=task.mean, std=task.std, interpolation="random" if task.own_defaults and part == "train" else "bilinear",
        num_workers=0, persistent_workers=False, crop_pct=1.0, device=torch.device("cpu"),
    )  # fmt: skip


@torch.inference_mode()
def _validate(model: nn.Module, batches: Any) -> float:
    model.eval()
    top1 = AverageMeter()
    for image, target in batches:
        top1.update(accuracy(model(image), target)[0].item(), len(image))
    return top1.avg / 100
