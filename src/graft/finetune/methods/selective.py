"""What trains within unfrozen stages: everything, or only some kinds of tensors."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace

from torch import nn

from graft.config.faults import InputError
from graft.finetune.decay import NORMS
from graft.finetune.freeze import Frozen, with_names
from graft.finetune.unfreeze import Schedule
from graft.models.stages import HEAD, Stages, tensor_names


def biases_and_norms_only(schedule: Schedule, module: nn.Module, stages: Stages) -> Schedule:
    """BitFit: within unfrozen stages, only the trunk's biases and norms train, and all other weights of the trunk stay
    frozen.

    [Zaken, Goldberg & Ravfogel 2022] train biases. Here a norm's scale trains together with its shift, and where a
    batch-norm trains, its statistics update. The head trains entirely.

    Raises:
        InputError: the schedule unfreezes no bias or norm of the trunk.
    """
    weights = {name for name in trunk_parameters(module, stages) if name not in biases_and_norms(module)}
    if all(state.names >= trunk_parameters(module, stages) - weights for state in schedule.table):
        raise InputError(
            "method.bitfit: expected stages whose biases and norms train, received a freeze that holds them all for"
            " good; try freeze=none, or method.bitfit=false"
        )
    return holding(schedule, module, stages, further=weights)


def biases_and_norms(module: nn.Module) -> frozenset[str]:
    """Names of all biases, and of the scales and shifts of norms."""
    of_norms = {
        f"{path}.{name}" if path else name
        for path, part in module.named_modules()
        if isinstance(part, NORMS)
        for name, _ in part.named_parameters(recurse=False)
    }
    biases = {name for name, _ in module.named_parameters(remove_duplicate=False) if name.endswith("bias")}
    return frozenset(of_norms | biases)


def trunk_parameters(module: nn.Module, stages: Stages) -> frozenset[str]:
    """Names of all parameters of the trunk."""
    names = (name for name, _ in module.named_parameters(remove_duplicate=False))
    return frozenset(name for name in names if stages.stage_of(name) != HEAD)


def holding(
    schedule: Schedule,
    module: nn.Module,
    stages: Stages,
    *,
    further: AbstractSet[str] = frozenset(),
    free: AbstractSet[str] = frozenset(),
) -> Schedule:
    """The same schedule with some tensors frozen in every phase, and others in none."""
    names = tensor_names(module)

    def changed(frozen: Frozen) -> Frozen:
        return with_names(frozen, (frozen.names | further) - free, stages, names)

    moments = tuple(replace(moment, frozen=changed(moment.frozen)) for moment in schedule.moments)
    plateau = schedule.plateau
    if plateau is not None:
        plateau = replace(plateau, releases=tuple(changed(frozen) for frozen in plateau.releases))
    return replace(schedule, moments=moments, plateau=plateau)
