"""The evaluating half of the LightningModule: a pass over the validation or the test part becomes a row of figures."""

from __future__ import annotations

from typing import cast

import lightning as L
from torch import Tensor, nn
from typing_extensions import override

from graft.finetune.metrics import Evaluation
from graft.machine import full_float32
from graft.tasks import Task

Batch = dict[str, Tensor]


class Evaluating(L.LightningModule):
    """Evaluates what `evaluated_logits` says; the last pass's figures are `row`.

    In float32 whatever the training's precision: what is evaluated is the network that is exported.

    A batch holds "target" ([B] classes, or [B, K] probabilities, labels or numbers), "index" ([B]), and may hold
    "label" (what figures are computed against; else derived from the target), beside what the network takes.

    Args:
        task: what targets and outputs mean.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.evaluations = nn.ModuleDict({part: Evaluation(part, task) for part in ("val", "test")})
        self.row: dict[str, float] = {}

    def evaluated_logits(self, batch: Batch) -> Tensor:
        """Of the network as it would be exported."""
        return self(batch["image"])

    @override
    def on_validation_epoch_start(self) -> None:
        self.evaluation("val").reset(self.device)

    @override
    def on_test_epoch_start(self) -> None:
        self.evaluation("test").reset(self.device)

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    @override
    def on_validation_epoch_end(self) -> None:
        self.row = self._figures("val")

    @override
    def on_test_epoch_end(self) -> None:
        self.row = self._figures("test")

    def evaluation(self, part: str) -> Evaluation:
        return cast(Evaluation, self.evaluations[part])

    def over_ranks(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        return cast(Tensor, self.trainer.strategy.reduce(values.clone(), reduce_op="sum"))

    def _evaluate(self, part: str, batch: Batch) -> None:
        with full_float32(self.device):
            logits = self.evaluated_logits(batch)
            loss = self.task.loss(logits.float(), batch["target"])
        self.evaluation(part).update(loss, logits, self.task.label(batch), batch["index"])

    def _figures(self, part: str) -> dict[str, float]:
        evaluation = self.evaluation(part)
        return evaluation.figures(self.over_ranks(evaluation.sums))
