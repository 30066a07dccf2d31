"""Parameter groups: a partition, by identity, of every parameter that trains in some phase, with its learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from graft.config.faults import InputError, nearest
from graft.config.patterns import instead_of_prefix
from graft.config.schema import OptimizerConfig
from graft.finetune.decay import undecayed
from graft.models.stages import HEAD, Stages, aliases, covers

BACKBONE = "backbone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parameters of one stage with the same learning rate that are frozen and unfrozen together."""

    name: str
    """`layer3`, `layer3/no_decay`; with ` part 2` if the stage is unfrozen in parts, ` ×0.1` if its factors differ."""
    stage: str
    names: tuple[str, ...]
    """Parameter names; a tied parameter is listed under its first name."""
    factor: float
    """Learning rate divided by optimizer.lr: the best-matching lr_scale times the power of layer_decay."""
    lr: float
    weight_decay: float
    parameters: int
    """Number of values in the parameters."""


def group_parameters(
    module: nn.Module,
    stages: Stages,
    optimizer: OptimizerConfig,
    frozen: Sequence[AbstractSet[str]] = (),
    spared: AbstractSet[str] = frozenset(),
) -> list[Group]:
    """Puts each parameter that ever trains into exactly one group, in forward order of the stages.

    Args:
        frozen: the frozen names in each freeze state of the training. Names that are always frozen are left out.
        spared: names without weight decay, besides those of `decay.undecayed`.

    Raises:
        InputError: a rate or factor is out of range, an lr_scale key or a no_decay glob matches nothing that trains,
            or no parameter trains.
    """
    _check(optimizer)
    never_trained = _in_all(frozen)
    no_decay = undecayed(module, optimizer.no_decay).keys() | spared
    used: set[str] = set()
    parts: dict[str, list[tuple[bool, ...]]] = {}
    members: dict[tuple[str, int, bool, float], list[tuple[str, int]]] = {}
    for parameter, names in aliases(module):
        if any(name in never_trained for name in names):
            continue
        stage = stages.stage_of(names[0])
        scale = _scale(names, stages, optimizer.lr_scale, used)
        states = tuple(names[0] in members_of for members_of in frozen)
        if states not in parts.setdefault(stage, []):
            parts[stage].append(states)
        factor = scale * _decay(stage, stages, optimizer.layer_decay)
        key = (stage, parts[stage].index(states), not no_decay.isdisjoint(names), factor)
        members.setdefault(key, []).append((names[0], parameter.numel()))
    if not members:
        raise InputError("freeze: expected something left to train, received a freeze of every parameter; try backbone")
    _check_used(used, optimizer.lr_scale, module, stages, never_trained)
    _check_trained(optimizer.no_decay, module, never_trained)
    order = [*stages.names, HEAD]
    factors = {stage: {key[-1] for key in members if key[0] == stage} for stage in order}
    return [
        Group(
            name=stage
            + (f" part {part + 1}" if len(parts[stage]) > 1 else "")
            + ("/no_decay" if spares else "")
            + (f" ×{factor:g}" if len(factors[stage]) > 1 else ""),
            stage=stage,
            names=tuple(name for name, _ in members_of),
            factor=factor,
            lr=optimizer.rate * factor,
            weight_decay=0.0 if spares else optimizer.weight_decay,
            parameters=sum(count for _, count in members_of),
        )
        for (stage, part, spares, factor), members_of in sorted(
            members.items(), key=lambda item: (order.index(item[0][0]), *item[0][1:3], -item[0][3])
        )
    ]


def without_decay(module: nn.Module, groups: Sequence[Group], optimizer: OptimizerConfig) -> dict[str, str]:
    """The parameters of groups with weight decay that are exempt from it, each with the reason."""
    if not optimizer.weight_decay:
        return {}
    reasons = undecayed(module, optimizer.no_decay)
    names = [name for group in groups if not group.weight_decay for name in group.names]
    return {name: reasons.get(name, "drawn to the donor by method.l2_sp") for name in names}


def _in_all(frozen: Sequence[AbstractSet[str]]) -> frozenset[str]:
    return frozenset[str].intersection(*(frozenset(names) for names in frozen)) if frozen else frozenset()


def _scale(names: tuple[str, ...], stages: Stages, lr_scale: dict[str, float], used: set[str]) -> float:
    fits = [(_fit(key, name, stages), key) for key in lr_scale for name in names]
    fitting = [fit for fit in fits if fit[0] is not None]
    if not fitting:
        return 1.0
    best = max(fitting, key=lambda fit: fit[0] or (0, 0))[1]
    used.add(best)
    return float(lr_scale[best])


def _fit(key: str, name: str, stages: Stages) -> tuple[int, int] | None:
    """How well an lr_scale key matches: the length of its prefix, literal before stage; None if it does not match."""
    literal = (len(key), 1) if covers(key, name) else None
    stage = stages.stage_of(name)
    if key == BACKBONE:
        of_stage = (0, 0) if stage != HEAD else None
    elif key == stage:
        prefixes = stages.heads if stage == HEAD else stages.trunk[stages.index(stage)].prefixes
        of_stage = (max((len(prefix) for prefix in prefixes if covers(prefix, name)), default=0), 0)
    else:
        of_stage = None
    fits = [fit for fit in (literal, of_stage) if fit is not None]
    return max(fits) if fits else None


def _decay(stage: str, stages: Stages, layer_decay: float | None) -> float:
    """The factor of layer decay: 1 for the head, layer_decay for the last stage, and so on [BEiT, Bao et al. 2022]."""
    if layer_decay is None or stage == HEAD:
        return 1.0
    return layer_decay ** (len(stages.names) - stages.names.index(stage))


def _check(optimizer: OptimizerConfig) -> None:
    rates = {"optimizer.lr": optimizer.rate}
    rates.update({f"optimizer.lr_scale[{key}]": factor for key, factor in optimizer.lr_scale.items()})
    for key, value in rates.items():
        if not math.isfinite(value) or value <= 0:
            raise InputError(f"{key}: expected a number above 0, received {value!r} (freeze what must not move)")
    decay = optimizer.layer_decay
    if decay is not None and not 0 < decay <= 1:
        raise InputError(f"optimizer.layer_decay: expected above 0 and at most 1, received {decay!r}; try 0.75")
    if not math.isfinite(optimizer.weight_decay) or optimizer.weight_decay < 0:
        raise InputError(f"optimizer.weight_decay: expected 0 or more, received {optimizer.weight_decay!r}")


def _fitting(key: str, names: Sequence[str], stages: Stages) -> list[str]:
    return [name for name in names if _fit(key, name, stages) is not None]


def _check_trained(globs: Sequence[str], module: nn.Module, never_trained: AbstractSet[str]) -> None:
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    for glob in globs:
        if all(name in never_trained for name in names if fnmatchcase(name, glob)):
            raise InputError(
                f"optimizer.no_decay: expected globs of parameters that train, received {glob!r}, which names only such"
                " as never do; try removing it, or freezing less"
            )


def _check_used(
    used: set[str],
    lr_scale: dict[str, float],
    module: nn.Module,
    stages: Stages,
    never_trained: AbstractSet[str],
) -> None:
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    for key in lr_scale:
        if key in used:
            continue
        matched = _fitting(key, names, stages)
        if not matched:
            instead = instead_of_prefix(key, lambda reading: bool(_fitting(reading, names, stages)))
            prefixes = {
                ".".join(name.split(".")[: depth + 1]) for name in names for depth in range(name.count(".") + 1)
            }
            near = nearest(key, sorted({*prefixes, *stages.names, HEAD, BACKBONE}))
            remedy = instead or ", ".join(near) or ", ".join((*stages.names, HEAD))
            reason = "matches no parameter"
        elif all(name in never_trained for name in matched):
            reason, remedy = "matches only parameters that never train", "removing it, or freezing less"
        else:
            reason, remedy = "has no effect, as closer keys cover all that it matches", "removing it"
        raise InputError(
            f"optimizer.lr_scale: expected stages ({', '.join(stages.names)}), head, backbone or name prefixes,"
            f" received {key!r}, which {reason}; try {remedy}"
        )
