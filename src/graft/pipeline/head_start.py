"""A head that is solved before the trunk trains too, and restored if training makes the result worse."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from graft.config.choices import CacheKind, LossKind
from graft.config.faults import RunFailed
from graft.config.figures import headline
from graft.config.schema import AugmentConfig
from graft.data.datamodule import DataModule
from graft.finetune.fit_result import BEFORE, FitResult
from graft.finetune.metrics import Outputs
from graft.heads.choice import HeadChoice, choose_head
from graft.models.network import Network
from graft.pipeline.candidates import examples_of, record_of
from graft.pipeline.features import features_after
from graft.pipeline.solving import evaluate_head, prove_head, remarks_on
from graft.plan.features import StageOutput
from graft.plan.plan import Plan
from graft.system.machine import threads
from graft.system.processes import say
from graft.tasks.task import Task

WHY_NOT = "try a lower optimizer.lr, fewer trainer.max_epochs, a milder augment, or more images"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The network before the first step, with its solved head."""

    state: Mapping[str, Tensor]
    """A copy of every tensor of the network."""
    choice: HeadChoice
    metrics: dict[str, float]
    """Metrics of train, val and test."""
    confusion: dict[str, list[list[int]]]
    outputs: dict[str, Outputs]

    def record(self) -> dict[str, Any]:
        """The entry in metrics.json."""
        return {**self.metrics, **record_of(self.choice)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How training changed the predictions for the validation images: the mean over the images, and its standard
    error."""

    figure: float
    """Change of the main metric (higher is better); for tasks with several outputs per image, of its mean over them."""
    figure_error: float
    loss: float
    """Change of the loss (lower is better)."""
    loss_error: float

    @property
    def is_worse(self) -> bool:
        """Whether the result is worse by more than its noise, that is, one standard error of the image-by-image
        differences."""
        below = self.figure + self.figure_error < 0
        return below or (self.figure < 0 and self.loss - self.loss_error > 0)


def solve_start(plan: Plan, network: Network, data: DataModule) -> Start:
    """Solves the head on the trunk's current features, and gives the network its weights.

    It takes one pass over the images, unless an earlier run cached their features. The images are preprocessed as for
    evaluation, whatever the augmentation of training.

    Raises:
        RunFailed: the features are not finite.
    """
    modes = {name: module.training for name, module in network.module.named_modules()}
    network.module.eval()
    with _feature_plan(plan) as (output, features_plan):
        parts, prefix, _, _ = features_after(output, features_plan, network, data)
        with threads(plan.config.trainer.threads or 1):
            try:
                choice = choose_head(
                    examples_of(plan, parts["train"], None, train=True),
                    examples_of(plan, parts["val"], None, train=False),
                    plan.task.criterion(replace(plan.config.loss, kind=LossKind.task)),
                    len(plan.table.classes),
                )
            except ValueError as error:
                raise RunFailed(f"the head could not be solved: {error}; try head.start=random") from error
        layer = _install(network, choice)
        prove_head(network, prefix, layer, None)
        metrics, confusion, outputs = evaluate_head(plan, lambda batch: layer(batch.flatten(1)), parts)
    for name, module in network.module.named_modules():
        module.training = modes[name]
    state = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    start = Start(state=state, choice=choice, metrics=metrics, confusion=confusion, outputs=outputs)
    say(f"start     {in_words(plan, metrics)} (head solved on the donor's features, penalty {choice.penalty:.2g})")
    for remark in remarks_on(plan, choice, outputs["val"]):
        say(f"head      {remark}")
    return start


@contextmanager
def _feature_plan(plan: Plan) -> Generator[tuple[StageOutput, Plan]]:
    """The stage and the plan for computing each image's features once. If nothing is to be cached, the folder is
    temporary."""
    config = plan.config
    output = StageOutput(cut=plan.network.stages.names[-1], epochs=None, size=0)
    with tempfile.TemporaryDirectory(prefix="graft-start-") as folder:
        where = folder if config.cache.kind is CacheKind.none else config.cache.dir
        cache = replace(config.cache, kind=CacheKind.features, dir=where, views=0)
        plain = replace(config, augment=AugmentConfig(name="none"), cache=cache)
        yield output, replace(plan, config=plain)


def _install(network: Network, choice: HeadChoice) -> nn.Linear:
    layer = network.module.get_submodule(network.stages.head)
    assert isinstance(layer, nn.Linear), "the plan solves linear heads alone"
    with torch.no_grad():
        layer.weight.copy_(choice.head.weight_KD)
        if "bias" in layer.state_dict():
            layer.bias.copy_(choice.head.bias_K)
    return layer


def never_below(plan: Plan, start: Start, result: FitResult) -> FitResult:
    """The result, or that of the initial solved head if training made the validation result worse."""
    change = compare(plan.task, start.outputs["val"], result.outputs["val"])
    head = {"solver": "sgd", "start": start.record(), "returned": change.is_worse}
    if not change.is_worse:
        return replace(result, head=head)
    say(
        f"returned  training ended below the head that it began with ({in_words(plan, result.metrics)}, where it began"
        f" with {in_words(plan, start.metrics)}), so that head is what is exported; {WHY_NOT}"
    )
    metrics = dict(start.metrics)
    trained = {name: metrics.pop(name) for name in [*metrics] if name.startswith("train/")}
    head["fine_tuned"] = {**result.figures, "best_epoch": result.best_epoch}
    return replace(
        result, metrics=metrics, trained=trained, confusion=start.confusion, outputs=start.outputs,
        best_epoch=BEFORE, head=head,
    )  # fmt: skip


def compare(task: Task, before: Outputs, after: Outputs) -> Change:
    """The image-by-image comparison of two predictions for the same images."""
    assert torch.equal(before.index, after.index), "the same images"
    was, now = task.judged(before.answers, before.label), task.judged(after.answers, after.label)
    figure_N, loss_N = now[0] - was[0], now[1] - was[1]
    count = len(figure_N)

    def error(values_N: Tensor) -> float:
        return float(values_N.std(unbiased=True)) / math.sqrt(count) if count > 1 else 0.0

    return Change(
        figure=float(figure_N.mean()),
        figure_error=error(figure_N),
        loss=float(loss_N.mean()),
        loss_error=error(loss_N),
    )


def in_words(plan: Plan, metrics: Mapping[str, float]) -> str:
    """The main validation metric and the validation loss as text."""
    figure = headline(plan.task.kind)
    return f"val {figure.title} {metrics[f'val/{figure.name}']:.4f}, loss {metrics['val/loss']:.4f}"
