"""trainer.tune=auto: finds the fastest way to compute a step, on copies, which leaves the training itself unaffected.

It compares memory formats, precision, compilation and optimizer implementations, on the real network and batches, in
the freeze state of the longest phase. In the copies, randomness is switched off and the weights do not change, so that
losses can be compared. A way whose loss deviates from the plain step's is not chosen, however fast it is. (If the
weights changed, rounding alone would make trainings diverge: for a ResNet-50 with random weights by a tenth of its loss
in the third step, with another memory format.)
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.nn.utils import get_total_norm
from typing_extensions import override

from graft.config.faults import RunFailed
from graft.config.schema import OptimizerConfig, TrainerConfig
from graft.features.engine import fast_precision
from graft.finetune.hardware import hardware, quiet_lightning, short_trainer
from graft.finetune.module import FineTuning
from graft.finetune.optimizer import OWN
from graft.finetune.rate_search import same_random_numbers
from graft.models.cut_graph import CHANCE

WARMING, TIMED = 2, 3  # steps; the first ones allocate, choose kernels and compile
TOLERANCE = 0.02  # of a step's loss, or of 1 where that is more
GRADIENT_TOLERANCE = 0.5  # of the gradients' norm: bf16 has been seen to be off by a quarter, and to train as well
STANDING = 1e-30  # a learning rate that changes no weight's last bit
GAIN = 0.03  # what another way must save of the configured one's time; less is noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to compute a training step. Evaluation always runs in float32."""

    channels_last: bool
    precision: str
    compile: bool = False
    update: str = ""
    """The optimizer's implementation: fused or foreach; "" if there is only one, or if it is configured."""

    def applied(self, trainer: TrainerConfig, optimizer: OptimizerConfig) -> tuple[TrainerConfig, OptimizerConfig]:
        implementation = {"fused": self.update == "fused", "foreach": self.update == "foreach"} if self.update else {}
        return (
            replace(trainer, channels_last=self.channels_last, precision=self.precision, compile=self.compile),
            replace(optimizer, kwargs={**optimizer.kwargs, **implementation}),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The time of a way, and its results."""

    way: Way
    seconds: float
    """Duration of the fastest timed step, in seconds."""
    losses: tuple[float, ...]
    gradient: float = math.nan
    """Gradient norm of the first step."""
    off: float = 0.0
    """The largest difference from the plain way's losses, relative to the loss or to 1."""
    gradient_off: float = 0.0
    """The difference from the plain way's gradient norm, relative to it."""

    @property
    def holds(self) -> bool:
        return self.off <= TOLERANCE and self.gradient_off <= GRADIENT_TOLERANCE

    def beside(self, plain: Measured) -> Measured:
        """The same measurement, compared with the plain way."""
        off = _off(self.losses, plain.losses, least=1.0)
        return replace(self, off=off, gradient_off=_off([self.gradient], [plain.gradient]))


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """All ways that were tried, the configured one first, and the choice."""

    way: Way
    tried: tuple[Measured, ...]

    def to_dict(self) -> dict[str, Any]:
        """The contents of tune.json."""
        tried = [
            {**asdict(each.way), "seconds": each.seconds, "off": each.off, "gradient_off": each.gradient_off}
            for each in self.tried
        ]
        tolerances = {"tolerance": TOLERANCE, "gradient_tolerance": GRADIENT_TOLERANCE}
        return {"chosen": asdict(self.way), **tolerances, "tried": tried}


def ways(
    trainer: TrainerConfig, optimizer: OptimizerConfig, resolved: str, device: str, *, on_images: bool = True
) -> list[Way]:
    """The ways to try, the configured one first. Explicit settings are kept: channels-first memory, a precision, an
    optimizer implementation. Compilation is tried only if it is configured.

    Args:
        resolved: the precision that the config resolves to.
        on_images: whether batches contain images; cached features come in the configured memory format.
    """
    orders = [True, False] if trainer.channels_last and on_images else [trainer.channels_last]
    precisions = [resolved]
    if trainer.precision == "auto" and fast_precision(device) is torch.bfloat16:
        precisions += [other for other in ("bf16-mixed", "32-true") if other != resolved]
    compiled = [True, False] if trainer.compile else [False]
    is_chosen = {"fused", "foreach"} & set(optimizer.kwargs) or resolved == "16-mixed" or optimizer.name not in OWN
    return [
        Way(channels_last=order, precision=precision, compile=compiling, update="" if is_chosen else "fused")
        for compiling in compiled
        for precision in precisions
        for order in orders
    ]


def search_step(tuning: FineTuning, batches: Sequence[Mapping[str, Any]], trainer: TrainerConfig) -> SearchResult:
    """Measures the ways, and for the best one the optimizer's other implementation too. It changes neither `tuning` nor
    the random numbers that come later.

    Args:
        tuning: the run's training, of which only copies are trained.
        batches: a few real batches.
    """
    optimizer = tuning.plan.optimizer
    arguments = hardware(trainer)
    device = "cuda" if arguments["accelerator"] == "gpu" else "cpu"
    on_images = "image" in batches[0]
    candidates = ways(trainer, optimizer, arguments["precision"], device, on_images=on_images)
    plain = Way(
        channels_last=trainer.channels_last and not on_images,
        precision="32-true" if trainer.precision == "auto" else arguments["precision"],
        update=candidates[0].update,
    )
    measured = {way: measure(tuning, batches, trainer, way) for way in dict.fromkeys((*candidates, plain))}
    tried = [measured[way].beside(measured[plain]) for way in candidates]
    best = choose(tried)
    if best.update:
        other = measure(tuning, batches, trainer, replace(best, update="foreach"))
        tried.append(other.beside(measured[plain]))
        best = choose([next(each for each in tried if each.way == best), tried[-1]])
    return SearchResult(way=best, tried=tuple(tried))


def choose(tried: Sequence[Measured]) -> Way:
    """The fastest way with matching losses, or the first (configured) one if none saves enough."""
    first, sound = tried[0], [each for each in tried if each.holds]
    fastest = min(sound, key=lambda each: each.seconds, default=first)
    return first.way if first.holds and fastest.seconds > first.seconds * (1 - GAIN) else fastest.way


def measure(tuning: FineTuning, batches: Sequence[Mapping[str, Any]], trainer: TrainerConfig, way: Way) -> Measured:
    """Measures a few steps of a copy."""
    trainer, optimizer = way.applied(trainer, tuning.plan.optimizer)
    probe = _probe(tuning, trainer, optimizer)
    steps = _Steps(WARMING + TIMED)
    with quiet_lightning(), same_random_numbers():
        lightning = short_trainer(trainer, WARMING + TIMED, steps)
        repeated = _Repeated(batches, (WARMING + TIMED) * trainer.accumulate)
        try:
            lightning.fit(probe, train_dataloaders=repeated, val_dataloaders=repeated)  # of which none is validated
        except RunFailed:  # a loss that is not finite
            return Measured(way=way, seconds=math.inf, losses=(math.nan,) * (WARMING + TIMED))
    times = [after - before for before, after in pairwise(steps.ends[WARMING - 1 :])]
    return Measured(
        way=way, seconds=min(times), losses=tuple(float(loss) for loss in steps.losses), gradient=float(steps.gradient)
    )


def _probe(tuning: FineTuning, trainer: TrainerConfig, optimizer: OptimizerConfig) -> FineTuning:
    """A copy that stays in the longest phase with its current weights."""
    probe, plan = copy.deepcopy(tuning), tuning.plan
    probe.adopt(plan.derived(phase=plan.longest_phase, optimizer=replace(optimizer, lr=STANDING)))
    probe.route.channels_last, probe.route.precision = trainer.channels_last, trainer.precision
    order = torch.channels_last if trainer.channels_last else torch.contiguous_format
    probe.network.to(memory_format=order)  # pyright: ignore[reportCallIssue]
    if trainer.compile:
        probe.route.compile()
    return probe


def _off(values: Sequence[float], reference: Sequence[float], *, least: float = 1e-12) -> float:
    """The largest difference relative to the reference, or to `least` if that is larger. NaN counts as infinite."""
    differences = [abs(value - plain) / max(abs(plain), least) for value, plain in zip(values, reference, strict=True)]
    return max(math.inf if math.isnan(difference) else difference for difference in differences)


class _Repeated:
    """Repeats the batches until the given number is reached."""

    def __init__(self, batches: Sequence[Mapping[str, Any]], count: int) -> None:
        self.batches, self.count = batches, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self.batches[place % len(self.batches)] for place in range(self.count))


class _Steps(Callback):
    """Records the end of each step, the loss of its last batch, and the gradient norm of the first step."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.ends: list[float] = []
        self.losses: list[torch.Tensor] = []
        self.gradient = torch.tensor(math.nan)

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for part in pl_module.modules():
            if any(word in type(part).__name__.lower() for word in CHANCE):
                part.training = False

    @override
    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not self.ends:
            grads = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
            self.gradient = get_total_norm(grads)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == len(self.ends):
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        self.losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)
