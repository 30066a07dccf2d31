"""Heads with hidden layers on cached features: minibatches in memory, a path of weight decays, early stopping.

There is no Trainer and there are no checkpoints, because training is quick and the same seed gives the same bits.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from graft.heads.choice import FEW, FOLDS, Choice, Examples, folds_of, mean_loss
from graft.heads.solve import Point
from graft.tasks.task import Criterion

EVALUATED = 4096  # rows at a time
LONGEST = 300  # epochs
EARLY_STOPPING = "early_stopping"
"""How plan.json and metrics.json name this way to a head."""

MakeOptimizer = Callable[[nn.Module, float], Optimizer]
"""Of layers and a weight decay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """How layers are trained, and when training ends.

    Attributes:
        decays: weight decays, each of which trains the layers from the same initial values.
        patience: epochs without a lower validation loss after which a training ends; the best epoch's weights are used.
    """

    decays: Sequence[float]
    patience: int
    batch_size: int
    seed: int
    epochs: int = LONGEST


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersChoice(Choice):
    """Trained layers, and how their weight decay and epoch were chosen."""

    layers: nn.Module

    @property
    def epoch(self) -> int:
        """The epoch of the weights, counted from 1."""
        epoch = self.path[self.chosen].epoch
        assert epoch is not None, "each point of this path has its best epoch"
        return epoch


def train_layers(
    layers: nn.Module,
    train: Examples,
    val: Examples,
    criterion: Criterion,
    make_optimizer: MakeOptimizer,
    stopping: Stopping,
) -> LayersChoice:
    """Trains with each weight decay until the validation loss no longer falls, and uses the best weight decay and
    epoch.

    If there are few validation images, cross-validation on the training images chooses them. The layers are then
    trained on all training images for the same number of epochs.

    Args:
        layers: layers with their initial values; they are not changed.

    Raises:
        ValueError: a loss is not finite.
    """
    folds = 0 if val.images >= FEW else min(FOLDS, train.groups)
    pairs = folds_of(train, folds) if folds > 1 else [(train, val)]
    points: list[Point] = []
    best: Tried | None = None
    chosen = 0
    for decay in stopping.decays:
        tried = _until_stopped(layers, pairs, criterion, make_optimizer, decay, stopping)
        points.append(
            Point(penalty=decay, loss=tried.loss, train_loss=tried.train_loss, steps=tried.steps, epoch=tried.epoch)
        )
        if best is None or tried.loss < best.loss:
            best, chosen = tried, len(points) - 1
    assert best is not None, "there is a weight decay"
    trained = copy.deepcopy(layers)
    if folds > 1:
        epochs = _epochs(trained, train, criterion, make_optimizer(trained, stopping.decays[chosen]), stopping)
        for _ in range(best.epoch):
            next(epochs)
    else:
        trained.load_state_dict(best.state, strict=True)
    return LayersChoice(
        layers=trained.eval(),
        path=tuple(points),
        chosen=chosen,
        complete=True,
        folds=folds if folds > 1 else 0,
        refit=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """The best epoch with one weight decay."""

    loss: float
    train_loss: float
    epoch: int
    steps: int
    state: dict[str, Tensor]
    """Of the first pair's layers."""


def _until_stopped(
    layers: nn.Module,
    pairs: Sequence[tuple[Examples, Examples]],
    criterion: Criterion,
    make_optimizer: MakeOptimizer,
    decay: float,
    stopping: Stopping,
) -> Tried:
    """Trains on the first part of each pair, one epoch of all pairs at a time, and monitors the loss on the second
    parts."""
    copies = [copy.deepcopy(layers) for _ in pairs]
    trainings = [
        _epochs(each, inside, criterion, make_optimizer(each, decay), stopping)
        for each, (inside, _) in zip(copies, pairs, strict=True)
    ]
    images = [len(outside) for _, outside in pairs]
    best: Tried | None = None
    steps = 0
    for epoch in range(1, stopping.epochs + 1):
        ends = [next(training) for training in trainings]
        steps += sum(count for _, count in ends)
        losses = [_loss(each, outside, criterion) for each, (_, outside) in zip(copies, pairs, strict=True)]
        loss = sum(one * count for one, count in zip(losses, images, strict=True)) / sum(images)
        if not math.isfinite(loss):
            raise ValueError(f"train_layers: expected a finite loss, received {loss} with weight decay {decay:g}")
        if best is None or loss < best.loss:
            state = {name: value.clone() for name, value in copies[0].state_dict().items()}
            train_loss = sum(one for one, _ in ends) / len(ends)
            best = Tried(loss=loss, train_loss=train_loss, epoch=epoch, steps=steps, state=state)
        elif epoch - best.epoch >= stopping.patience:
            break
    assert best is not None, "there is an epoch"
    return best


def _epochs(
    layers: nn.Module, examples: Examples, criterion: Criterion, optimizer: Optimizer, stopping: Stopping
) -> Generator[tuple[float, int]]:
    """Trains one epoch per iteration, and yields its mean loss and number of steps. Order and dropout depend only on
    the seed and the epoch."""
    rows_ND, count = examples.features_ND[:].float(), len(examples)
    batches = math.ceil(count / stopping.batch_size)
    epoch = 0
    while True:
        generator = torch.Generator().manual_seed(stopping.seed * LONGEST + epoch)
        if examples.weight_N is None:
            order_N = torch.randperm(count, generator=generator)
        else:
            order_N = torch.multinomial(examples.weight_N, count, replacement=True, generator=generator)
        layers.train()
        total = 0.0
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(stopping.seed * LONGEST + epoch)
            for batch in order_N.tensor_split(batches):  # none of them much shorter than the others
                optimizer.zero_grad()
                loss = criterion(layers(rows_ND[batch]), examples.target[batch])
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(batch)
        yield total / count, batches
        epoch += 1


def _loss(layers: nn.Module, examples: Examples, criterion: Criterion) -> float:
    layers.eval()
    with torch.no_grad():
        blocks = (examples.features_ND[start : start + EVALUATED] for start in range(0, len(examples), EVALUATED))
        logits_NK = torch.cat([layers(block.float()) for block in blocks])
    return mean_loss(logits_NK.double(), examples, criterion)
