"""The heads that one pass could give: each solved, and what it is worth on images it was not solved on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from graft.config.choices import HeadKind
from graft.config.faults import RunFailed
from graft.config.figures import headline
from graft.data.split import connected
from graft.data.table import Sample
from graft.features.dataset import FeatureDataset
from graft.finetune.metrics import Evaluation
from graft.heads.choice import Choice, Examples, HeadChoice, choose_head, loss_of_all
from graft.heads.layers import EARLY_STOPPING
from graft.heads.rows import logits_of
from graft.models.network import Network
from graft.models.stage_head import columns_of
from graft.pipeline.features import Features
from graft.plan.features import MEASURED
from graft.plan.plan import Plan
from graft.sweep.job import in_sweep

Columns = Tensor | None
C_co = TypeVar("C_co", bound=Choice, covariant=True)
COMPARED_BY_ALL = 200
"""Validation images below which heads are compared by folds of the training images too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """The images cropped in one way: the network that has them so, and its features."""

    network: Network
    features: Features
    cut: str

    @property
    def source(self) -> Network:
        """The network whose features they are."""
        return self.features.source or self.network

    @property
    def parts(self) -> Mapping[str, FeatureDataset]:
        return self.features.stored[self.cut]

    @property
    def prefix(self) -> nn.Module:
        return self.features.prefixes[self.cut]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A head that could be solved on the features that are kept."""

    name: str
    kind: HeadKind
    """What it is an option of."""
    columns: Columns
    """Of the kept features, those that it takes; None: all."""


@dataclass(slots=True, kw_only=True)
class Solved(Generic[C_co]):
    """A candidate's head, and what it gives on the validation images."""

    candidate: Candidate
    crop: Crop
    choice: C_co
    figure: float
    """The task's headline figure on the validation images."""
    compared_by: float
    """The loss by which it is compared with others."""

    @property
    def crop_fraction(self) -> float:
        return self.crop.network.preprocess.crop_fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Answers to the validation images that need no training, as a measure for the heads."""

    name: str
    key: str
    """In metrics.json."""
    figure: float
    """The task's headline figure."""
    loss: float | None = None
    words: str = ""
    """What to type for a run that begins with it."""


def candidates(source: Network) -> list[Candidate]:
    """The heads whose inputs are kept; the first is the plain one."""
    if source.head["kind"] != HeadKind.stages.value:
        return [Candidate(name="last layer", kind=HeadKind.linear, columns=None)]
    columns = columns_of(source.head)
    linear = [Candidate(name="last layer", kind=HeadKind.linear, columns=columns["last"])]
    if not isinstance(source.module.get_submodule(source.stages.head), nn.Linear) or source.head["last"]["axes"]:
        linear = []  # the library's own last layer is a convolution
    return [
        *linear,
        Candidate(name="all blocks", kind=HeadKind.stages, columns=columns["blocks"]),
        Candidate(name="all blocks and last layer", kind=HeadKind.stages, columns=None),
    ]


def measure(plan: Plan, crops: Sequence[Crop]) -> list[Solved[HeadChoice]]:
    """Every head that the run may take, and the others where that costs little. A trial of a sweep leaves the others
    out: they would be the same in every trial.

    Raises:
        RunFailed: features that are not finite.
    """
    kind = plan.config.head.kind
    criterion, outputs = plan.task.criterion(plan.config.loss), len(plan.table.classes)
    measured: list[Solved[HeadChoice]] = []
    alone = in_sweep()
    for crop in crops:
        train, val = crop.parts["train"].whole(), crop.parts["val"].whole()
        small = len(train) * train.width <= MEASURED
        for candidate in candidates(crop.source):
            may_be_taken = kind in (candidate.kind, HeadKind.auto)
            if not may_be_taken and (alone or not small):
                continue
            examples = (
                examples_of(plan, crop.parts["train"], candidate.columns, train=True),
                examples_of(plan, crop.parts["val"], candidate.columns, train=False),
            )
            try:
                choice = choose_head(*examples, criterion, outputs, refit=plan.config.head.refit and may_be_taken)
            except ValueError as error:
                raise RunFailed(
                    f"the head could not be solved: {error}; see whether the donor suits these images"
                ) from error
            by_all = kind is HeadKind.auto and small and len(val) < COMPARED_BY_ALL
            figures = figures_of(plan, logits_of(choice.head, examples[1].features_ND).float(), crop.parts["val"])
            measured.append(
                Solved(
                    candidate=candidate,
                    crop=crop,
                    choice=choice,
                    figure=figures[headline(plan.task.kind).name],
                    compared_by=loss_of_all(*examples, criterion, outputs, choice) if by_all else choice.loss,
                )
            )
    return measured


def examples_of(plan: Plan, part: FeatureDataset, columns: Columns, *, train: bool) -> Examples:
    """Every view of an image is an example."""
    target = part.columns["target"].repeat(part.views, *[1] * (part.columns["target"].ndim - 1))
    image_N = torch.arange(len(part)).repeat(part.views)
    weight_N = balance_of(plan, part.columns["label"]) if train else None
    if weight_N is not None:
        weight_N = weight_N.repeat(part.views)
    rows = part.whole()
    group_N = _together(plan.table.train).repeat(part.views) if train else None
    return Examples(rows if columns is None else rows.only(columns), target, image_N, weight_N, group_N)


def balance_of(plan: Plan, label_N: Tensor) -> Tensor | None:
    """What each image weighs with data.balanced, which draws an image as often as its class is rare."""
    if not plan.config.data.balanced:
        return None
    count_K = torch.bincount(label_N).double()
    return len(label_N) / (count_K > 0).sum() / count_K[label_N]


def _together(samples: Sequence[Sample]) -> Tensor:
    """A number for each image, the same for those that no fold may part: of one group, or that show the same."""
    return torch.tensor(connected([sample.group for sample in samples], [sample.picture for sample in samples]))


def columns_from(features_ND: Tensor, columns: Columns) -> Tensor:
    """Features as vectors, those columns of them."""
    vectors = features_ND.flatten(1)
    return vectors if columns is None else vectors[:, columns]


def figures_of(plan: Plan, logits_NK: Tensor, part: FeatureDataset) -> dict[str, float]:
    """Of these answers to a part's images."""
    evaluation = Evaluation("", plan.task)
    evaluation.reset("cpu")
    columns = part.columns
    evaluation.update(
        plan.task.loss(logits_NK, columns["target"]), logits_NK, plan.task.label(columns), columns["index"]
    )
    return {name.removeprefix("/"): value for name, value in evaluation.figures(evaluation.sums).items()}


def record_of(choice: Choice) -> dict[str, Any]:
    """How a head was chosen."""
    return {
        "penalty": choice.penalty,
        "chosen_by": f"{choice.folds} folds" if choice.folds else "validation",
        "refit": choice.refit,
        "at_end": choice.at_end,
        "path": [
            {
                "penalty": each.penalty,
                "loss": each.loss,
                "train_loss": each.train_loss,
                "steps": each.steps,
                **({} if each.epoch is None else {"epoch": each.epoch}),
            }
            for each in choice.path
        ],
    }


def record_of_all(
    plan: Plan, measured: Sequence[Solved[Choice]], chosen: Solved[Choice], references: Sequence[Reference]
) -> dict[str, Any]:
    """For metrics.json."""
    return {
        "solver": EARLY_STOPPING if chosen.candidate.kind is HeadKind.mlp else "convex",
        "kind": chosen.candidate.kind.value,
        "features": chosen.candidate.name,
        "crop_fraction": chosen.crop_fraction,
        **record_of(chosen.choice),
        "measured": [
            {
                "head": each.candidate.kind.value,
                "features": each.candidate.name,
                "crop_fraction": each.crop_fraction,
                "loss": each.choice.loss,
                "compared_by": each.compared_by,
                headline(plan.task.kind).name: each.figure,
            }
            for each in measured
        ],
        "neighbours": None,
        **{each.key: each.figure for each in references},
    }


def table_of(
    plan: Plan, measured: Sequence[Solved[Choice]], chosen: Solved[Choice], references: Sequence[Reference]
) -> str:
    """What each head gives on images that it was not solved on, and the words that take it."""
    figure, folds = headline(plan.task.kind), chosen.choice.folds
    by_all = any(each.compared_by != each.choice.loss for each in measured)
    several = len({each.crop_fraction for each in measured}) > 1
    rows = [("measured", "loss", "all" if by_all else "", f"val {figure.title}", "take it by")]
    for each in measured:
        crop = f" data.crop_fraction={each.crop_fraction:g}" if several else ""
        compared = f"{each.compared_by:.4f}" if by_all else ""
        words = f"head={each.candidate.kind.value}{crop}"
        rows.append((each.candidate.name, f"{each.choice.loss:.4f}", compared, f"{each.figure:.4f}", words))
    for each in references:
        loss = "" if each.loss is None else f"{each.loss:.4f}"
        rows.append((each.name, loss, "", f"{each.figure:.4f}", each.words))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    marks = ["", *("  <- taken" if each is chosen else "" for each in measured)]
    marks += [""] * (len(rows) - len(marks))
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:4], widths[1:4], strict=True) if width),
                row[4],
            ]
        ).rstrip()
        + mark
        for row, mark in zip(rows, marks, strict=True)
    ]
    by = f"loss: of {folds} folds of the training images" if folds else "loss: of the validation images"
    more = "; all: of these and of folds of the training images, which decides" if by_all else ""
    return "\n".join([*lines, f"({by}{more})"])
