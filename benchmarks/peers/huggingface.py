"""Hugging Face's Trainer on its image-classification recipe, which its package does not ship: TrainingArguments with
that recipe's rate (2e-5), an evaluation each epoch, and its transforms.

Left out: the hub's model classes, as the model is the task's own under the recipe's names for what goes in and out; its
package `datasets`, as a folder of images is a torch dataset here; checkpoints of each epoch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments

from benchmarks.peers.images import folder, last_part
from benchmarks.peers.network import network_of
from benchmarks.peers.stopwatch import Stopwatch
from benchmarks.task import Outcome, Task


class Classifier(nn.Module):
    """Takes and gives what the Trainer's own models do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.model(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Watching(TrainerCallback):
    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self.watch.begin()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.watch.stepped()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.watch.trained()

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if len(self.watch.epochs) < len(self.watch.training):
            self.watch.evaluated()


def train(task: Task, weights: Path, watch: Stopwatch) -> Outcome:
    torch.set_num_threads(task.threads)
    parts = {part: folder(task, part) for part in ("train", "val")}
    arguments = TrainingArguments(
        output_dir=str(weights.with_suffix(".trainer")), per_device_train_batch_size=task.batch_size,
        per_device_eval_batch_size=task.batch_size, num_train_epochs=task.epochs,
        learning_rate=2e-5 if task.own_defaults else task.lr, eval_strategy="epoch", save_strategy="no",
        remove_unused_columns=False, report_to=[], use_cpu=True, seed=task.seed, disable_tqdm=True,
        logging_strategy="epoch",
    )  # fmt: skip
    trainer = Trainer(
        model=Classifier(network_of(task, len(parts["train"].classes))), args=arguments, data_collator=_collate,
        train_dataset=parts["train"], eval_dataset=parts["val"], compute_metrics=_accuracy, callbacks=[Watching(watch)],
    )  # fmt: skip
    trainer.train()
    torch.save(trainer.model.state_dict(), weights)  # pyright: ignore[reportOptionalMemberAccess]
    watch.saved()
    figures = trainer.evaluate(folder(task, last_part(task)))  # pyright: ignore[reportArgumentType]
    return watch.outcome(accuracy=figures["eval_accuracy"], images=len(parts["train"]))


def _collate(items: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    images, labels = zip(*items, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def _accuracy(predicted: EvalPrediction) -> dict[str, float]:
    logits: Any = predicted.predictions
    return {"accuracy": float((logits.argmax(axis=1) == predicted.label_ids).mean())}
