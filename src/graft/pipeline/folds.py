"""Cross-validation of a solved head: solved once without each fold, all from the features of one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.config.figures import FIGURES, LOSS, headline
from graft.finetune.metrics import Evaluation, Outputs
from graft.heads.choice import HeadChoice
from graft.heads.rows import Head
from graft.heads.solve import PENALTIES, solve
from graft.page.words import measured
from graft.pipeline.candidates import Solved, balance_of, columns_from
from graft.plan.plan import Plan

AROUND = 2
"""Penalties on either side of the one that fold 0 chose, among which all folds together choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidation:
    """What the folds came to."""

    choice: HeadChoice
    """The head of all images outside the test part, under the penalty that all folds together chose."""
    metrics: dict[str, float]
    """val/ figures of every image, each by a head that was solved without its fold."""
    confusion: list[list[int]] | None
    outputs: Outputs
    """Indices are those of `Table.evaluated`."""
    record: dict[str, Any]
    """For metrics.json."""

    @property
    def choice_record(self) -> dict[str, Any]:
        """What differs in the account of how the head was chosen."""
        return {"penalty": self.record["penalty"], "chosen_by": f"{self.record['count']} folds"}


def check_folds(plan: Plan) -> None:
    """Raises InputError where folds are asked for of a network that is trained."""
    data = plan.config.data
    if data.folds is None or data.fold is not None or (plan.solver.solves and not plan.solver.decays):
        return
    every = ",".join(map(str, range(data.folds)))
    reason = "hidden layers" if plan.solver.solves else plan.solver.reason or "training by steps"
    raise InputError(
        f"data.folds: expected a linear head that is solved, received {reason}; try -m data.fold={every}"
        f" data.folds={data.folds}, a run a fold"
    )


def cross_validate(plan: Plan, chosen: Solved[HeadChoice]) -> CrossValidation:
    """Solves the head without each fold, and then on all images.

    Args:
        chosen: what was solved without fold 0, whose features all folds take.
    """
    count = plan.config.data.folds
    assert count is not None, "asked for"
    parts = [chosen.crop.parts[name] for name in ("train", "val")]
    features_ND = torch.cat([columns_from(part.whole()[:], chosen.candidate.columns) for part in parts])
    target, label = (torch.cat([part.columns[name] for part in parts]) for name in ("target", "label"))
    samples = plan.table.evaluated("val", crossed=True)
    fold_N = torch.tensor([-1 if sample.fold is None else sample.fold for sample in samples])
    center, length = chosen.choice.chosen, len(chosen.choice.path)
    low = max(center - AROUND, 0)
    penalties = PENALTIES[low : min(center + AROUND + 1, length)]
    criterion, outputs = plan.task.criterion(plan.config.loss), len(plan.table.classes)
    logits_PNK = torch.zeros(len(penalties), len(samples), outputs, dtype=torch.float64)
    tried = len(penalties)
    for fold in range(count):
        inside, outside = fold_N != fold, fold_N == fold
        heads: list[Head] = []

        def held_out(head: Head, outside: Tensor = outside, heads: list[Head] = heads) -> float:
            logits_NK = head(features_ND[outside])
            logits_PNK[len(heads), outside] = logits_NK
            heads.append(head)
            return float(criterion(logits_NK, _like(target[outside])))

        loss = criterion.convex(target[inside], outputs, balance_of(plan, label[inside]))
        solve(features_ND[inside], loss, validation=held_out, penalties=penalties, exact=False)
        tried = min(tried, len(heads))
    losses = [float(criterion(logits_PNK[place], _like(target))) for place in range(tried)]
    best = min(range(tried), key=lambda place: (losses[place], -place))
    share = (count - 1) / count
    whole = criterion.convex(target, outputs, balance_of(plan, label))
    head = solve(features_ND, whole, penalties=[penalty * share for penalty in penalties[: best + 1]]).head
    logits_NK = logits_PNK[best].float()
    evaluation = _evaluated(plan, logits_NK, target, label)
    figures = _by_fold(plan, logits_NK, target, label, fold_N)
    return CrossValidation(
        choice=replace(chosen.choice, head=head, chosen=low + best),
        metrics=evaluation.figures(evaluation.sums),
        confusion=evaluation.confusion(),
        outputs=evaluation.outputs(),
        record={
            "count": count,
            "images": [int((fold_N == fold).sum()) for fold in range(count)],
            "penalty": penalties[best],
            "losses": {f"{penalty:g}": loss for penalty, loss in zip(penalties[: len(losses)], losses, strict=True)},
            "figures": figures,
        },
    )


def _like(target: Tensor) -> Tensor:
    return target.double() if target.is_floating_point() else target


def _evaluated(plan: Plan, logits_NK: Tensor, target: Tensor, label: Tensor) -> Evaluation:
    evaluation = Evaluation("val", plan.task)
    evaluation.reset("cpu")
    evaluation.keeps_outputs = True
    batch = {"target": target, "label": label}
    evaluation.update(
        plan.task.loss(logits_NK, target), logits_NK, plan.task.label(batch), torch.arange(len(logits_NK))
    )
    return evaluation


def _by_fold(plan: Plan, logits_NK: Tensor, target: Tensor, label: Tensor, fold_N: Tensor) -> dict[str, dict[str, Any]]:
    """Each figure: of every fold, their mean, and their standard deviation."""
    folds: list[dict[str, float]] = []
    for fold in range(int(fold_N.max()) + 1):
        rows = fold_N == fold
        evaluation = _evaluated(plan, logits_NK[rows], target[rows], label[rows])
        folds.append(evaluation.figures(evaluation.sums))
    names = [figure.name for figure in (LOSS, *FIGURES[plan.task.kind])]
    values = {name: [fold[f"val/{name}"] for fold in folds] for name in names}
    return {
        name: {"folds": each, "mean": float(np.mean(each)), "deviation": float(np.std(each, ddof=1))}
        for name, each in values.items()
    }


def in_words(metrics: Mapping[str, Any], task: TaskKind) -> str:
    """A line of the terminal: the figure out of fold with its interval, and how far folds differ."""
    figure, record = headline(task), metrics["folds"]
    name = f"val/{figure.name}"
    interval = metrics["intervals"].get(name)
    span = f" (95 % {measured(interval['low'], 4)} to {measured(interval['high'], 4)})" if interval else ""
    each = record["figures"][figure.name]
    return (
        f"{record['count']} folds: {figure.title} out of fold {measured(metrics[name], 4)}{span}; by fold"
        f" {measured(each['mean'], 4)} ± {measured(each['deviation'], 4)}"
        f" ({', '.join(measured(value, 4) for value in each['folds'])})"
    )
