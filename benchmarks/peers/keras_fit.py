"""Keras 3 on its torch backend: the task's model in a TorchModuleWrapper, `compile` and `fit`.

Keras has no model of its own for most donors, and reads none of torch's files; the wrapper is its documented way to
take both. It is the kindest one too: the layers that run are torch's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"  # read when keras is first imported

import keras
import torch

from benchmarks.peers.images import last_part, loader
from benchmarks.peers.network import network_of
from benchmarks.peers.stopwatch import Stopwatch
from benchmarks.task import Outcome, Task


class Watching(keras.callbacks.Callback):
    """Keras evaluates between the last batch of an epoch and its end."""

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self.watch, self.evaluating = watch, False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.watch.begin()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.watch.stepped()

    def on_test_begin(self, logs: Any = None) -> None:
        if len(self.watch.training) == len(self.watch.epochs):
            self.watch.trained()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.watch.evaluated()


def train(task: Task, weights: Path, watch: Stopwatch) -> Outcome:
    torch.set_num_threads(task.threads)
    keras.utils.set_random_seed(task.seed)
    batches, val = loader(task, "train"), loader(task, "val")
    network = network_of(task, len(batches.dataset.classes))  # pyright: ignore[reportAttributeAccessIssue]
    model: Any = keras.Sequential([keras.layers.TorchModuleWrapper(network)])
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3 if task.own_defaults else task.lr),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(batches, validation_data=val, epochs=task.epochs, verbose=0, callbacks=[Watching(watch)])
    torch.save(network.state_dict(), weights)
    watch.saved()
    figures = model.evaluate(loader(task, last_part(task)), verbose=0, return_dict=True)
    return watch.outcome(accuracy=float(figures["accuracy"]), images=len(batches.dataset))  # pyright: ignore[reportArgumentType]
