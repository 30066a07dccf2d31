"""What a solved head gains if the answers to an image and to its mirror image are averaged."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from graft.config.choices import TaskKind
from graft.data.datamodule import DataModule
from graft.data.loader import KeyedLoader
from graft.data.sampling import KeyedBatchSampler
from graft.finetune.fit_result import FitResult
from graft.models.network import Network
from graft.plan.plan import Plan
from graft.system.machine import full_float32
from graft.system.processes import say

MOST = 5000
"""Validation images up to which this is measured: it takes two passes over them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrored:
    """Accuracy on the validation images."""

    averaged: float
    alone: float


def with_mirror_images(plan: Plan, network: Network, data: DataModule, result: FitResult) -> FitResult:
    """Measures it if the head was solved on mirrored views of the training images, and adds it to the result."""
    measured = measure_mirrored(plan, network, data)
    if measured is None or result.head is None:
        return result
    say(
        f"views     val accuracy {measured.averaged:.4f} if the answers to an image and its mirror image are averaged,"
        f" {measured.alone:.4f} for the image alone: graft predict … --tta flips"
    )
    record = {"averaged": measured.averaged, "alone": measured.alone}
    return replace(result, head={**result.head, "mirror_images": record})


def measure_mirrored(plan: Plan, network: Network, data: DataModule) -> Mirrored | None:
    """None unless training flips images horizontally, and each image has one class."""
    count = len(plan.table.val)
    if not plan.config.cache.views or not plan.config.augment.hflip or count > MOST:
        return None
    if plan.task.kind is not TaskKind.single_label:
        return None
    sampler = KeyedBatchSampler(count, plan.config.data.images, seed=plan.config.seed, shuffle=False)
    loader = KeyedLoader(data.images("val"), sampler, num_workers=data.workers(count), whole=True)
    right = {"averaged": 0.0, "alone": 0.0}
    with torch.inference_mode(), full_float32("cpu"):
        for batch in loader:
            both = [plan.task.answers(network.module(view)) for view in (batch["image"], batch["image"].flip(-1))]
            label = plan.task.label(batch)
            for name, answers in (("averaged", (both[0] + both[1]) / 2), ("alone", both[0])):
                right[name] += float(plan.task.judged(answers, label)[0].sum())
    return Mirrored(**{name: value / count for name, value in right.items()})
