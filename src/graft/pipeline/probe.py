"""Measures how useful a donor's features are for given images, from one pass: solved heads and nearest neighbours."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graft.audit.parts import check_parts
from graft.config.choices import AUTO, TaskKind
from graft.config.faults import InputError
from graft.config.keys import schema_keys
from graft.config.schema import Config
from graft.data.datamodule import DataModule
from graft.heads.neighbours import vote
from graft.heads.ridge import solve_ridge
from graft.models.network import with_values
from graft.pipeline.features import compute_features
from graft.pipeline.inputs import Inputs
from graft.plan.plan import Plan, make_plan
from graft.system.machine import threads
from graft.transfer import inject

MOST = 2000
"""Largest number of training images for solving heads: the factorisation takes time cubic in their number."""
LAST, BLOCKS = "last layer", "all blocks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Measurements on one set of images, with the features of a head=stages network or of the backbone's own last
    layer."""

    backbone: str
    image_size: int
    taps: str
    values: int
    """Number of values per image."""
    ridge: float
    """Accuracy of ridge regression on the validation images."""
    ridge_left_out: float
    """Leave-one-out accuracy of ridge regression on the training images."""
    neighbours: float
    """Accuracy of the nearest neighbours on the validation images."""
    images: int
    """Number of validation images."""
    solved_on: int
    """Number of training images."""
    seconds_of_pass: float
    """Seconds for all images and both taps together; almost zero if a run has computed the features before."""
    seconds: float
    """Seconds for the measurements."""


def probe(config: Config, inputs: Inputs) -> list[Probe]:
    """Measures the last layer and all blocks of one backbone at one image size.

    Args:
        config: config of a run with head=stages and cache=features, whose cache entries it shares.

    Raises:
        InputError: the task is not single_label, or the plan of such a run raises it.
    """
    if config.data.task is not TaskKind.single_label:
        raise InputError(
            "data.task: expected single_label, as donors are compared by their accuracy, received "
            f"{config.data.task.value}; try training with head=stages"
        )
    if config.data.batch_size == AUTO:  # by the memory of a step of training, of which there is none
        usual = schema_keys()["data.batch_size"].default
        config = replace(config, data=replace(config.data, batch_size=usual))
    with threads(config.trainer.threads):
        table = inputs.table(config)
        check_parts(table, config.data)
        plan = make_plan(config, table, lambda: inputs.donor(config))
        began = time.perf_counter()
        parts = features_of(plan, inputs)
        seconds = time.perf_counter() - began
    with threads(config.trainer.threads or 1):  # several gain little on so few rows, and lose much on a busy machine
        last = plan.network.head["last"]["width"]
        return [
            _measured(plan, taps, {part: (x[:, -width:], y) for part, (x, y) in parts.items()}, seconds)
            for taps, width in ((LAST, last), (BLOCKS, plan.network.head["width"]))
        ]


def features_of(
    plan: Plan, inputs: Inputs, parts: Sequence[str] = ("train", "val")
) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Features [N, D] and labels [N] of each part, in the order of the table."""
    config, table = plan.config, plan.table
    network = with_values(plan.network, config.seed)
    with inputs.donor(config) as donor:
        inject(plan.ledger, donor, network.module)
    network.module.eval()
    data = DataModule(
        table, config.data, config.augment, network.preprocess, seed=config.seed, cache=config.cache, fewest=plan.fewest
    )
    compute_features(plan, network, data)
    return {part: _collected(data, part) for part in parts}


def _collected(data: DataModule, part: str) -> tuple[Tensor, Tensor]:
    batches = list(data.loader(part))
    return torch.cat([batch["features"] for batch in batches]), torch.cat([batch["label"] for batch in batches])


def _measured(plan: Plan, taps: str, parts: Mapping[str, tuple[Tensor, Tensor]], seconds_of_pass: float) -> Probe:
    began = time.perf_counter()
    features, labels = _some(*parts["train"], seed=plan.config.seed)
    classes = len(plan.table.classes)
    ridge = solve_ridge(features, torch.nn.functional.one_hot(labels, classes).double())
    images, truth = parts["val"]
    return Probe(
        backbone=plan.config.backbone.name,
        image_size=plan.network.preprocess.image_size,
        taps=taps,
        values=features.shape[1],
        ridge=_accuracy(ridge.head(images).argmax(1), truth),
        ridge_left_out=_accuracy(ridge.left_out_NK.argmax(1), labels),
        neighbours=_accuracy(vote(features, labels, images, classes).argmax(1), truth),
        images=len(images),
        solved_on=len(features),
        seconds_of_pass=seconds_of_pass,
        seconds=time.perf_counter() - began,
    )


def _some(features: Tensor, labels: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """At most MOST of them, sampled with the seed."""
    if len(features) <= MOST:
        return features, labels
    rows = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:MOST].sort().values
    return features[rows], labels[rows]


def _accuracy(answers: Tensor, truth: Tensor) -> float:
    return float((answers == truth).double().mean())
