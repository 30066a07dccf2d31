"""A run whose head is solved: from kept features to the head's weights and what they are worth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graft.config.choices import HeadKind
from graft.config.faults import RunFailed
from graft.config.figures import headline
from graft.config.schema import HeadConfig
from graft.features.dataset import FeatureDataset
from graft.finetune.callbacks import METRICS_FILE, as_csv
from graft.finetune.fit_result import FitResult
from graft.finetune.metrics import Evaluation, Outputs
from graft.finetune.progress import Watch
from graft.heads.choice import Choice, Examples, choose_head
from graft.heads.neighbours import NEIGHBOURS, vote
from graft.models.network import Network, network_for, take_trunk, with_values
from graft.models.stage_head import columns_of
from graft.pipeline.features import Features, example_of
from graft.plan.features import MEASURED
from graft.plan.plan import Plan
from graft.system.files import write_text
from graft.system.machine import full_float32, threads
from graft.system.processes import is_first, say

EVALUATED = 1024  # images at a time
SMALL = 3e7
"""Features of the training images up to which one thread is as fast as several; on a busy machine it is much faster."""
TOLERANCE = 1e-3

Columns = Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A head that could be solved on the features that are kept."""

    name: str
    kind: HeadKind
    """What it is an option of."""
    columns: Columns
    """Of the kept features, those that it takes; None: all."""


@dataclass(slots=True, kw_only=True)
class Solved:
    """A candidate's head, and what it gives on the validation images."""

    candidate: Candidate
    choice: Choice
    figure: float
    """The task's headline figure on the validation images."""


def solve_head(plan: Plan, network: Network, features: Features, folder: Path) -> tuple[Network, FitResult]:
    """Solves the head, gives the network its weights, and evaluates it. The same bits on one machine.

    Returns:
        The network: with head=auto it may be another than the one given, of the same trunk.

    Raises:
        RunFailed: features that are not finite.
    """
    began = time.perf_counter()
    network.module.requires_grad_(False).eval()
    frozen = plan.training.phases[0].frozen
    watch = Watch(network.module, [frozen], plan.config.freeze_bn, heads=network.stages.heads)
    source, parts = features.source or network, features.stored[plan.cache.kept[0].cut]
    whole = parts["train"].whole()
    with threads(plan.config.trainer.threads or (1 if len(whole) * whole.width < SMALL else None)):
        measured = _measure(plan, source, parts)
    kind = plan.config.head.kind
    taken = min(
        (each for each in measured if kind in (each.candidate.kind, HeadKind.auto)), key=lambda each: each.choice.loss
    )
    if kind is HeadKind.auto and taken.candidate.kind is HeadKind.linear:
        network = _with_last_layer(plan, network)
    layer, columns = _install(network, source, taken)
    prove_head(network, features.prefixes[plan.cache.kept[0].cut], layer, columns)
    seconds = time.perf_counter() - began
    metrics, confusion, outputs = evaluate_head(plan, lambda batch: layer(_of(batch, columns)), parts)
    trained = {name: metrics.pop(name) for name in [*metrics] if name.startswith("train/")}
    row = {"epoch": 1, "step": 0, **trained, **metrics, "seconds": seconds}
    if is_first():
        write_text(folder / METRICS_FILE, as_csv([{name: row[name] for name in row if not name.startswith("test/")}]))
    neighbours = _neighbours(plan, source, parts)
    say(_table(plan, measured, taken, neighbours))
    for remark in remarks_on(plan, taken.choice, outputs["val"]):
        say(f"head      {remark}")
    return network, FitResult(
        metrics=metrics, trained=trained, confusion=confusion, outputs=outputs, history=[row], seconds=seconds,
        first_step=began, images_per_second=0.0, epochs=0, steps=0, batch_size=plan.config.data.images,
        accumulate=1, steps_skipped=0, best_epoch=None, best_path=None, last_path=None, resumed_from=None,
        frozen_verified=watch.verified(), moved=tuple(sorted(watch.moved)), moved_statistics=(),
        phases=tuple(plan.training.phases), profile={}, precision=plan.precision, prefix={},
        head=_record(plan, measured, taken, neighbours),
    )  # fmt: skip


def _candidates(source: Network, kind: HeadKind) -> list[Candidate]:
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


def _measure(plan: Plan, source: Network, parts: Mapping[str, FeatureDataset]) -> list[Solved]:
    """Every head that the run may take, and the others where that costs little."""
    kind = plan.config.head.kind
    criterion = plan.task.criterion(plan.config.loss)
    measured: list[Solved] = []
    train, val = parts["train"].whole(), parts["val"].whole()
    for candidate in _candidates(source, kind):
        may_be_taken = kind in (candidate.kind, HeadKind.auto)
        if not may_be_taken and len(train) * train.width > MEASURED:
            continue
        refit = plan.config.head.refit and may_be_taken
        try:
            choice = choose_head(
                examples_of(plan, parts["train"], candidate.columns, train=True),
                examples_of(plan, parts["val"], candidate.columns, train=False),
                criterion,
                len(plan.table.classes),
                refit=refit,
            )
        except ValueError as error:
            raise RunFailed(
                f"the head could not be solved: {error}; see whether the donor suits these images"
            ) from error
        answers = choice.head(_of(val[:], candidate.columns))
        figures = _figures(plan, answers.float(), parts["val"])
        measured.append(Solved(candidate=candidate, choice=choice, figure=figures[headline(plan.task.kind).name]))
    return measured


def examples_of(plan: Plan, part: FeatureDataset, columns: Columns, *, train: bool) -> Examples:
    """Every view of an image is an example."""
    target = part.columns["target"].repeat(part.views, *[1] * (part.columns["target"].ndim - 1))
    image_N = torch.arange(len(part)).repeat(part.views)
    weight_N = None
    if train and plan.config.data.balanced:  # an image is drawn as often as its class is rare
        label_N = part.columns["label"].repeat(part.views)
        count_K = torch.bincount(label_N).double()
        weight_N = len(label_N) / (count_K > 0).sum() / count_K[label_N]
    rows = part.whole()
    return Examples(rows if columns is None else rows.only(columns), target, image_N, weight_N)


def _of(features_ND: Tensor, columns: Columns) -> Tensor:
    vectors = features_ND.flatten(1)
    return vectors if columns is None else vectors[:, columns]


def _with_last_layer(plan: Plan, network: Network) -> Network:
    """The network with head=linear and this one's trunk."""
    config = replace(plan.config, head=HeadConfig(kind=HeadKind.linear))
    plain = replace(network_for(config, network.classes, device="meta"), preprocess=network.preprocess)
    plain = with_values(plain, config.seed)
    take_trunk(plain, network)
    plain.module.requires_grad_(False).eval()
    return plain


def _install(network: Network, source: Network, taken: Solved) -> tuple[nn.Linear, Columns]:
    """Mutates the network's last layer: gives it the solved weights. Also the kept features' columns that it takes."""
    layer = network.module.get_submodule(network.stages.head)
    assert isinstance(layer, nn.Linear), "the plan solves linear heads alone"
    is_wide, columns = network.head["kind"] == HeadKind.stages.value, taken.candidate.columns
    with torch.no_grad():
        if is_wide and columns is not None:
            layer.weight.zero_()
            layer.weight[:, columns] = taken.choice.head.weight_KD.to(layer.weight)
        else:
            layer.weight.copy_(taken.choice.head.weight_KD)
        if "bias" in layer.state_dict():
            layer.bias.copy_(taken.choice.head.bias_K)
    return layer, None if is_wide else columns


def prove_head(network: Network, prefix: nn.Module, layer: nn.Linear, columns: Columns) -> None:
    """What is exported computes from images what was solved on features."""
    images = example_of(network)
    with torch.no_grad(), full_float32("cpu"):
        expected, received = network.module(images), layer(_of(prefix(images), columns))
    if not torch.allclose(expected, received, atol=TOLERANCE, rtol=TOLERANCE):
        off = float((expected - received).abs().max())
        raise RunFailed(f"the network's answers differ from those of its solved head by {off:.2g}; try head.solver=sgd")


def _figures(plan: Plan, logits_NK: Tensor, part: FeatureDataset) -> dict[str, float]:
    evaluation = Evaluation("", plan.task)
    evaluation.reset("cpu")
    columns = part.columns
    evaluation.update(
        plan.task.loss(logits_NK, columns["target"]), logits_NK, plan.task.label(columns), columns["index"]
    )
    return {name.removeprefix("/"): value for name, value in evaluation.figures(evaluation.sums).items()}


def evaluate_head(
    plan: Plan, answer: Callable[[Tensor], Tensor], parts: Mapping[str, FeatureDataset]
) -> tuple[dict[str, float], dict[str, list[list[int]]], dict[str, Outputs]]:
    """In float32, by the layer that is exported."""
    metrics: dict[str, float] = {}
    confusion: dict[str, list[list[int]]] = {}
    outputs: dict[str, Outputs] = {}
    for name, part in parts.items():
        evaluation = Evaluation(name, plan.task)
        evaluation.reset("cpu")
        evaluation.keeps_outputs = True
        for start in range(0, len(part), EVALUATED):
            batch = part.__getitems__([(0, row) for row in range(start, min(start + EVALUATED, len(part)))])
            with torch.no_grad(), full_float32("cpu"):
                logits = answer(batch["features"]).float()
                loss = plan.task.loss(logits, batch["target"])
            evaluation.update(loss, logits, plan.task.label(batch), batch["index"])
        metrics.update(evaluation.figures(evaluation.sums))
        if name != "train":
            outputs[name] = evaluation.outputs()
            if (counts := evaluation.confusion()) is not None:
                confusion[name] = counts
    return metrics, confusion, outputs


def _neighbours(plan: Plan, source: Network, parts: Mapping[str, FeatureDataset]) -> float | None:
    """The validation images' share that the nearest training images name rightly; None where that is not asked for."""
    train, val = parts["train"], parts["val"]
    labels = train.columns["label"]
    if labels.ndim != 1 or labels.is_floating_point() or len(train) * train.whole().width > MEASURED:
        return None
    known, others = train.whole(), val.whole()
    if source.head["kind"] == HeadKind.stages.value:
        last = columns_of(source.head)["last"]
        known, others = known.only(last), others.only(last)
    votes_MK = vote(known, labels.repeat(train.views), others, len(plan.table.classes))
    return float((votes_MK.argmax(1) == val.columns["label"]).double().mean())


def record_of(choice: Choice) -> dict[str, Any]:
    """How a head was chosen."""
    return {
        "penalty": choice.penalty,
        "chosen_by": f"{choice.folds} folds" if choice.folds else "validation",
        "refit": choice.refit,
        "at_end": choice.at_end,
        "path": [
            {"penalty": each.penalty, "loss": each.loss, "train_loss": each.train_loss, "steps": each.steps}
            for each in choice.path
        ],
    }


def _record(plan: Plan, measured: list[Solved], taken: Solved, neighbours: float | None) -> dict[str, Any]:
    """For metrics.json."""
    return {
        "solver": "convex",
        "kind": taken.candidate.kind.value,
        "features": taken.candidate.name,
        **record_of(taken.choice),
        "measured": [
            {
                "head": each.candidate.kind.value,
                "features": each.candidate.name,
                "loss": each.choice.loss,
                headline(plan.task.kind).name: each.figure,
            }
            for each in measured
        ],
        "neighbours": neighbours,
    }


def _table(plan: Plan, measured: list[Solved], taken: Solved, neighbours: float | None) -> str:
    """What each head gives on images that it was not solved on, and the words that take it."""
    figure = headline(plan.task.kind)
    folds = taken.choice.folds
    rows = [("measured", "loss", f"val {figure.title}", "take it by")]
    rows += [
        (each.candidate.name, f"{each.choice.loss:.4f}", f"{each.figure:.4f}", f"head={each.candidate.kind.value}")
        for each in measured
    ]
    if neighbours is not None:
        rows.append((f"{NEIGHBOURS} nearest training images", "", f"{neighbours:.4f}", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    marks = ["", *("  <- taken" if each is taken else "" for each in measured)]
    marks += [""] * (len(rows) - len(marks))
    lines = [
        "  ".join([row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2]), row[3]]).rstrip() + mark
        for row, mark in zip(rows, marks, strict=True)
    ]
    by = f"loss: of {folds} folds of the training images" if folds else "loss: of the validation images"
    return "\n".join([*lines, f"({by})"])


def remarks_on(plan: Plan, choice: Choice, val: Outputs) -> list[str]:
    """What a person should know of the head, and what to do."""
    remarks: list[str] = []
    if choice.at_end and choice.chosen == 0:
        remarks.append(
            f"the strongest penalty of all was the best ({choice.penalty:g}): these features hardly tell the answers"
            " apart; try another donor, or fine-tuning (freeze=none)"
        )
    elif choice.at_end:
        remarks.append(
            f"the weakest penalty of all was the best ({choice.penalty:g}): a weaker one may be better still; try"
            " head.solver=sgd, or experiment=last_stage"
        )
    if val.label.ndim == 1 and not val.label.is_floating_point():
        answered = val.answers.argmax(1).unique()
        if len(answered) == 1 and len(val.label.unique()) > 1:
            name = plan.table.classes[int(answered[0])]
            remarks.append(f"it answers {name} for every validation image; try loss.class_weights=balanced")
    if choice.refit:
        remarks.append("figures of the validation part are of images that the head was solved on (head.refit)")
    return remarks
