"""The optimizer for the groups, and the learning-rate factor as a pure function of the step."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm.optim
import torch
from torch import nn
from torch.optim import Optimizer

from graft.config.faults import InputError, nearest
from graft.config.import_path import OwnCode, call_object, function_of, import_object, takes
from graft.config.schema import OptimizerConfig, SchedulerConfig, SchedulerKind
from graft.finetune.groups import Group

KEY = "optimizer.target"
SCHEDULER = "scheduler.target"
Factor = Callable[[int], float]
TIMM: Any = timm.optim  # its names are re-exported without a mark that type checkers know
SMALL_SIDE = 8  # of the parameters on which an optimizer that looks at values is counted
OWN: dict[str, type[Optimizer]] = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def build_optimizer(
    groups: Sequence[Group], module: nn.Module, config: OptimizerConfig, *, fused: bool = True
) -> Optimizer:
    """An optimizer with one parameter group per `Group`, in their order.

    Args:
        fused: use the fused implementation if torch has one (impossible with a gradient scaler and clipping).

    Raises:
        InputError: an unknown name, or an argument that this optimizer does not take.
    """
    named = dict(module.named_parameters(remove_duplicate=False))
    parameters: list[dict[str, Any]] = [
        {
            "params": [named[name] for name in group.names],
            "lr": group.lr,
            "weight_decay": group.weight_decay,
            "name": group.name,
        }
        for group in groups
    ]
    arguments = dict(config.kwargs)
    if config.name in OWN:
        arguments.setdefault("fused", fused and all(p.is_floating_point() for p in named.values()))
    return _construct(parameters, config, arguments, lr=config.rate)


def _construct(
    parameters: Sequence[Any], config: OptimizerConfig, arguments: Mapping[str, Any], *, lr: float
) -> Optimizer:
    if config.target is not None:
        return _own(parameters, config, lr)
    build = _constructor(config.name)
    try:
        return build(parameters, lr=lr, weight_decay=config.weight_decay, **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"optimizer.kwargs: expected arguments of {config.name}{_accepted(config.name)}, received"
            f" {config.kwargs!r} ({error})"
        ) from error


def _own(parameters: Sequence[Any], config: OptimizerConfig, lr: float) -> Optimizer:
    """The optimizer of optimizer.target."""
    path = str(config.target)
    decay = {"weight_decay": config.weight_decay} if takes(import_object(KEY, path), "weight_decay") else {}
    if config.weight_decay and not decay:
        raise InputError(
            f"optimizer.weight_decay: expected 0 with {path}, which takes none, received {config.weight_decay:g}; try "
            "optimizer.weight_decay=0"
        )
    optimizer = call_object(KEY, path, parameters, lr=lr, **decay, **config.kwargs)
    if not isinstance(optimizer, Optimizer):
        raise InputError(
            f"{KEY}: expected {path} to be a torch.optim.Optimizer, or to return one, received a "
            f"{type(optimizer).__name__}"
        )
    return optimizer


def _try_own(optimizer: Optimizer, path: str) -> None:
    """A step of a user's own optimizer, which must call the closure that computes the gradients."""
    calls: list[None] = []
    with OwnCode(f"{KEY}: expected {path} to take a step"):
        optimizer.step(lambda: calls.append(None) or 0.0)
    if len(calls) != 1:
        raise InputError(
            f"{KEY}: expected step(closure) of {path} to call its closure once, as torch's optimizers do to have the "
            f"gradients computed, received {len(calls)} calls; try `if closure is not None: closure()` at its start, "
            "with torch.enable_grad()"
        )


def state_numbers(shapes: Sequence[torch.Size], config: OptimizerConfig) -> int:
    """How many numbers the optimizer stores for parameters of these shapes, determined by a step without values.

    The few optimizers that look at values are measured on small parameters. An optimizer that cannot take a step here
    (it needs a GPU, or second derivatives) is counted like AdamW, with two moments.

    Raises:
        InputError: an unknown name, or an argument that this optimizer does not take.
    """
    numbers = sum(shape.numel() for shape in shapes)
    try:
        if config.target is None:  # one of a user's own may do anything with values
            return _state_after_a_step(Counter(shapes), config, "meta")
    except (RuntimeError, AssertionError):
        pass
    small = Counter(torch.Size(min(side, SMALL_SIDE) for side in shape) for shape in shapes)
    try:
        numbers_after = _state_after_a_step(small, config, "cpu")
    except (RuntimeError, AssertionError):
        return 2 * numbers
    return round(numbers * numbers_after / max(sum(shape.numel() * count for shape, count in small.items()), 1))


def _state_after_a_step(shapes: Mapping[torch.Size, int], config: OptimizerConfig, device: str) -> int:
    """Numbers stored for parameters of these shapes, each with its count."""
    counts = {nn.Parameter(torch.zeros(shape, device=device)): count for shape, count in shapes.items()}
    arguments = {**config.kwargs, "fused": False} if config.name in OWN else dict(config.kwargs)
    optimizer = _construct(list(counts), config, arguments, lr=1.0)
    for parameter in counts:
        parameter.grad = torch.zeros_like(parameter)
    if config.target is None:
        optimizer.step()
    else:
        _try_own(optimizer, config.target)
    return sum(
        count * value.numel()
        for parameter, count in counts.items()
        for value in optimizer.state[parameter].values()
        if isinstance(value, torch.Tensor) and value.numel() > 1
    )


def optimizer_names() -> list[str]:
    """Names of all available optimizers."""
    return sorted({*OWN, *(str(name) for name in TIMM.list_optimizers())})


def _constructor(name: str) -> Callable[..., Optimizer]:
    if name in OWN:
        return OWN[name]
    names = optimizer_names()
    if name not in names:
        near = nearest(name, names)
        raise InputError(
            f"optimizer.name: expected adamw, sgd or an optimizer of timm's, received {name!r};"
            f" try {', '.join(near) or ', '.join(names)}"
        )
    return lambda parameters, **arguments: TIMM.create_optimizer_v2(parameters, opt=name, **arguments)


def _accepted(name: str) -> str:
    built = OWN.get(name) or TIMM.get_optimizer_class(name, bind_defaults=False)
    if not inspect.isclass(built):
        return ""
    keywords = [
        key for key in inspect.signature(built).parameters if key not in ("self", "params", "lr", "weight_decay")
    ]
    return f" ({', '.join(keywords)})"


def rate_factor(config: SchedulerConfig, *, steps_per_epoch: int, total_steps: int) -> Factor:
    """A function from the optimizer step, counted from 0, to the factor on every group's learning rate.

    Raises:
        InputError: a setting is out of range, or does not apply to this kind of schedule.
    """
    _check(config)
    warmup = config.warmup.steps(steps_per_epoch, total_steps)
    if config.kind is SchedulerKind.one_cycle:
        if warmup:
            raise InputError(
                f"scheduler.warmup: expected 0, since one_cycle rises by itself, received {config.warmup.source!r};"
                " try scheduler.peak_at"
            )
        return _one_cycle(config, total_steps)
    if warmup >= total_steps:
        raise InputError(
            f"scheduler.warmup: expected less than the whole training ({total_steps} steps), received"
            f" {config.warmup.source!r}, which is {warmup} steps; try 5%"
        )
    shapes: Mapping[SchedulerKind, Callable[[], Factor]] = {
        SchedulerKind.constant: lambda: lambda step: 1.0,
        SchedulerKind.cosine: lambda: _cosine(config.min_factor, warmup, total_steps),
        SchedulerKind.custom: lambda: _own_curve(config, warmup, total_steps),
        SchedulerKind.step: lambda: _steps(config, steps_per_epoch, total_steps),
    }
    shape = shapes[config.kind]()
    return lambda step: (step + 1) / warmup if step < warmup else shape(step)


def _cosine(lowest: float, warmup: int, total_steps: int) -> Factor:
    """Falls from 1 after the warm-up to `lowest` at the end [Loshchilov & Hutter 2017]."""

    def at(step: int) -> float:
        progress = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
        return lowest + (1 - lowest) * (1 + math.cos(math.pi * progress)) / 2

    return at


def _own_curve(config: SchedulerConfig, warmup: int, total_steps: int) -> Factor:
    """The function of scheduler.target, of the progress after the warm-up. It is tried at both ends."""
    path = str(config.target)
    function = function_of(SCHEDULER, path, config.kwargs, 0.0)

    def at(step: int) -> float:
        progress = min((step - warmup) / max(total_steps - 1 - warmup, 1), 1.0)
        with OwnCode(f"{SCHEDULER}: expected {path} to return a factor at a progress of {progress:g}"):
            factor = float(function(progress))
        if not (math.isfinite(factor) and factor >= 0):
            raise InputError(
                f"{SCHEDULER}: expected {path} to return a factor from 0 upward, received {factor:g} at a progress of "
                f"{progress:g}"
            )
        return factor

    for step in (warmup, total_steps - 1):
        at(step)
    return at


def _one_cycle(config: SchedulerConfig, total_steps: int) -> Factor:
    """Rises and falls by cosines, like torch's OneCycleLR [Smith & Topin 2018]."""
    peak = config.peak_at * total_steps - 1
    last = total_steps - 1

    def at(step: int) -> float:
        if step <= peak and peak > 0:
            return _between(config.start_factor, 1.0, step / peak)
        return _between(1.0, config.end_factor, min((step - max(peak, 0)) / max(last - max(peak, 0), 1), 1.0))

    return at


def _between(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))


def _steps(config: SchedulerConfig, steps_per_epoch: int, total_steps: int) -> Factor:
    every = config.every.steps(steps_per_epoch, total_steps)
    if every == 0:
        raise InputError(
            f"scheduler.every: expected more than nothing, received {config.every.source!r}; try 10 epochs"
        )
    return lambda step: config.gamma ** (step // every)


def _check(config: SchedulerConfig) -> None:
    bounds = {
        "min_factor": (config.min_factor, 0 <= config.min_factor <= 1, "0 to 1"),
        "peak_at": (config.peak_at, 0 < config.peak_at < 1, "a share between 0 and 1"),
        "start_factor": (config.start_factor, 0 < config.start_factor <= 1, "above 0 and at most 1"),
        "end_factor": (config.end_factor, 0 <= config.end_factor <= 1, "0 to 1"),
        "gamma": (config.gamma, 0 < config.gamma <= 1, "above 0 and at most 1"),
    }
    for key, (value, holds, expected) in bounds.items():
        if not holds:
            raise InputError(f"scheduler.{key}: expected {expected}, received {value!r}")
