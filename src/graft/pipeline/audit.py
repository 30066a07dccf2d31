"""An audit of labelled images before anything is trained: one pass of the donor, and what its features say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from graft.audit.copies import Copies, find_copies
from graft.audit.counts import cautions, counts_by_class
from graft.audit.labels import Doubt, confusable, rank_labels
from graft.audit.looks import look_at
from graft.audit.near import NearCopies, find_near
from graft.audit.shortcuts import Shortcut, find_shortcuts
from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.config.schema import Config
from graft.data.corrections import Corrections
from graft.data.datasets import record_of_looks
from graft.data.table import PARTS, Sample
from graft.pipeline.inputs import Inputs
from graft.pipeline.probe import features_of
from graft.plan.plan import make_plan
from graft.system.machine import threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was seen in the images and their labels."""

    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    """Class to part to number of images."""
    cautions: tuple[str, ...]
    corrections: Corrections
    copies: Copies
    near: NearCopies
    """Pairs across parts, by the numbers of `samples`."""
    unreadable: tuple[dict[str, str], ...]
    samples: tuple[tuple[str, Sample], ...]
    """Each image with its part, in the order that `doubts` number them."""
    doubts: list[Doubt]
    """Every image, the most doubtful label first."""
    confusions: list[tuple[int, int, int]]
    """Pairs of classes with the number of images of one that are answered as the other."""
    shortcuts: list[Shortcut]
    """Properties of the files by how well each predicts the labels, the most predictive first."""


def audit(config: Config, inputs: Inputs) -> Audit:
    """Looks through all parts together.

    Args:
        config: config of a run with head=stages and cache=features, whose cache entries it shares.

    Raises:
        InputError: the images do not have one class each, or the plan of such a run raises it.
    """
    if config.data.task is not TaskKind.single_label:
        raise InputError(
            f"graft audit: expected images of one class each, received data.task={config.data.task.value}; "
            "try data.task=single_label"
        )
    with threads(config.trainer.threads):
        table = inputs.table(config)
        plan = make_plan(config, table, lambda: inputs.donor(config))
        parts = features_of(plan, inputs, [part for part in PARTS if table.part(part)])
    with threads(config.trainer.threads or 1):
        features = torch.cat([features for features, _ in parts.values()])
        labels = torch.cat([labels for _, labels in parts.values()])
        doubts = rank_labels(features, labels, len(table.classes))
    samples = tuple((part, sample) for part in parts for sample in table.part(part))
    record = record_of_looks(Path(config.cache.dir), config.data)
    looks = look_at([sample for _, sample in samples], config.data.channels, record)
    near = find_near(
        looks.small_NSS,
        [PARTS.index(part) for part, _ in samples],
        [sample.picture or sample.path for _, sample in samples],
    )
    return Audit(
        classes=table.classes,
        counts=counts_by_class(table),
        cautions=tuple(cautions(table)),
        copies=find_copies(table),
        corrections=table.corrections,
        unreadable=table.skipped,
        near=near,
        samples=samples,
        doubts=doubts,
        confusions=confusable(doubts),
        shortcuts=find_shortcuts(looks, [sample for _, sample in samples], labels.tolist(), table.classes),
    )
