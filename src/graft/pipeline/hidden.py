"""Trains a head's hidden layers on cached features, with the plan's parameter groups and weight decays."""

from __future__ import annotations

from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from graft.config.choices import HeadKind
from graft.config.faults import RunFailed
from graft.config.figures import headline
from graft.finetune.optimizer import build_optimizer
from graft.heads.layers import LayersChoice, Stopping, train_layers
from graft.models.stage_head import columns_of
from graft.pipeline.candidates import Candidate, Crop, Solved, columns_from, examples_of, figures_of
from graft.plan.plan import Plan


def train_hidden(plan: Plan, crop: Crop) -> Solved[LayersChoice]:
    """The head's layers, trained with each of the plan's weight decays. The network is not changed.

    Raises:
        RunFailed: a loss is not finite.
    """
    wide = crop.source.head["kind"] == HeadKind.stages.value
    columns = columns_of(crop.source.head)["last"] if wide else None
    config, criterion = plan.config, plan.task.criterion(plan.config.loss)
    stopping = Stopping(
        decays=plan.solver.decays, patience=config.head.patience, batch_size=config.data.images, seed=config.seed
    )
    train, val = (examples_of(plan, crop.parts[part], columns, train=part == "train") for part in ("train", "val"))
    layers = crop.network.module.get_submodule(crop.network.head["at"]).requires_grad_(True)
    try:
        choice = train_layers(
            layers, train, val, criterion, lambda copied, decay: _optimizer(plan, copied, decay), stopping
        )
    except ValueError as error:
        raise RunFailed(f"the head could not be trained: {error}; try a lower optimizer.lr") from error
    finally:
        layers.requires_grad_(False)
    part = crop.parts["val"]
    logits = choice.layers.requires_grad_(False)(columns_from(part.whole()[:], columns).float())
    hidden = ", ".join(map(str, config.head.hidden))
    return Solved(
        candidate=Candidate(name=f"last layer, {hidden} hidden", kind=HeadKind.mlp, columns=columns),
        crop=crop, choice=choice, figure=figures_of(plan, logits, part)[headline(plan.task.kind).name],
        compared_by=choice.loss,
    )  # fmt: skip


def _optimizer(plan: Plan, layers: nn.Module, decay: float) -> Optimizer:
    """The optimizer with the plan's groups and learning rates. Groups without weight decay keep none."""
    prefix = f"{plan.network.head['at']}."
    groups = [
        replace(
            group,
            names=tuple(name.removeprefix(prefix) for name in group.names),
            weight_decay=decay if group.weight_decay else 0.0,
        )
        for group in plan.training.groups
    ]
    return build_optimizer(groups, layers, plan.config.optimizer)
