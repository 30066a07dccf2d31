"""optimizer.lr=find: a learning-rate range test on a copy, which leaves the training itself unaffected.

The learning rate increases by a constant factor from step to step while the loss is recorded [Smith 2017, section 3.3].
The suggested rate is where the smoothed loss falls fastest over the logarithm of the rate.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from graft.config.faults import RunFailed
from graft.config.schema import OnError, TrainerConfig
from graft.finetune.finite import Finite
from graft.finetune.hardware import quiet_lightning, short_trainer
from graft.finetune.module import FineTuning

STEPS = 100
LOWEST, HIGHEST = 1e-6, 10.0
SMOOTHING = 0.9  # of the moving average: a step's weight falls to a third in ten steps, less than a decade of rates
DIVERGED = 4.0  # times the lowest smoothed loss
FEWEST = 10  # steps from which a slope can be told


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeTest:
    """The rates that were tried, and the suggested one."""

    suggestion: float
    """The suggested optimizer.lr, from which every group's rate follows."""
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    """The training loss of one batch at each rate."""
    smoothed: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """The contents of lr_find.json."""
        return {"rule": "steepest descent of the smoothed loss over log10 of the rate", **asdict(self)}


def range_test(tuning: FineTuning, batches: Iterable[Any], trainer: TrainerConfig) -> RangeTest:
    """Trains a copy, in the first phase's freeze state, until the loss diverges or all rates have been tried.

    It changes neither `tuning` nor the random numbers that come later.

    Args:
        batches: a separate training loader, since reading advances it.

    Raises:
        RunFailed: the loss did not fall at any rate.
    """
    probe = _probe(tuning, trainer)
    sweep = _Sweep()
    with quiet_lightning(), same_random_numbers():
        lightning = short_trainer(trainer, STEPS, sweep)
        lightning.fit(probe, train_dataloaders=batches, val_dataloaders=batches)  # of which none is read
    rates = tuple(rate_at(step) for step in range(len(sweep.losses)))
    smoothed = smooth(sweep.losses)
    return RangeTest(
        suggestion=steepest(rates, smoothed), rates=rates, losses=tuple(sweep.losses), smoothed=tuple(smoothed)
    )


def rate_at(step: int) -> float:
    """The rate in a step: from LOWEST in the first step to HIGHEST in the last, by a constant factor."""
    return LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))


def smooth(losses: Sequence[float]) -> list[float]:
    """An exponential moving average with bias correction [Kingma & Ba 2015, section 3]."""
    average = 0.0
    averages: list[float] = []
    for count, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        averages.append(average / (1 - SMOOTHING**count))
    return averages


def steepest(rates: Sequence[float], smoothed: Sequence[float]) -> float:
    """The rate at which the loss falls fastest, among those before its lowest point.

    Raises:
        RunFailed: the loss does not fall.
    """
    finite = list(takewhile(math.isfinite, smoothed))
    lowest = int(np.argmin(finite)) if finite else 0
    if lowest < FEWEST:
        received = f"its lowest value at step {lowest + 1} of the range test" if finite else "no finite one"
        raise RunFailed(
            f"optimizer.lr=find: expected a loss that falls before it diverges, received {received}; try"
            " optimizer.lr=1e-3, or another freeze"
        )
    slopes = np.gradient(np.asarray(finite), np.log10(rates[: len(finite)]))
    return float(f"{rates[int(np.argmin(slopes[FEWEST : lowest + 1])) + FEWEST]:.3g}")


def _probe(tuning: FineTuning, trainer: TrainerConfig) -> FineTuning:
    """A copy that stays in the first phase and follows the increasing rates."""
    probe, plan = copy.deepcopy(tuning), tuning.plan
    plan = plan.derived(phase=plan.phases[0], optimizer=replace(plan.optimizer, lr=1.0), curve=rate_at)
    probe.adopt(replace(plan, on_nan=OnError.skip))  # the sweep ends itself where the loss breaks down
    probe.finite = Finite(probe.network, [], OnError.skip, patience=STEPS)
    probe.route.channels_last = trainer.channels_last
    if trainer.channels_last:
        probe.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return probe


class _Sweep(Callback):
    """Records the loss of each step, and ends the test when the loss has diverged."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self._batches: list[float] = []  # of the step that is under way

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batches.append(float(outputs["loss"]))
        if trainer.global_step == len(self.losses):
            return
        loss = sum(self._batches) * float(cast(FineTuning, pl_module).step_mean.correction)
        self._batches.clear()
        if not math.isfinite(loss):
            trainer.should_stop = True
            return
        self.losses.append(loss)
        smoothed = smooth(self.losses)
        if smoothed[-1] > DIVERGED * min(smoothed):
            trainer.should_stop = True


@contextmanager
def same_random_numbers() -> Generator[None]:
    """Restores torch's random state on all devices at the end of the context."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
