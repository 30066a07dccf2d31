"""Ordered stages: the part of the network that each tensor belongs to. Pure functions of names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from graft.config.faults import InputError, nearest
from graft.config.patterns import instead_of_prefix

HEAD = "head"


def covers(prefix: str, name: str) -> bool:
    """Whether a module-name prefix covers a tensor: `layer1` covers `layer1.0.conv1.weight`, but not
    `layer10.weight`."""
    return name == prefix or name.startswith(f"{prefix}.")


@dataclass(frozen=True, slots=True)
class Stage:
    """A named part of the trunk: the tensors that its module-name prefixes cover."""

    name: str
    prefixes: tuple[str, ...]

    def covers(self, tensor: str) -> bool:
        return any(covers(prefix, tensor) for prefix in self.prefixes)


@dataclass(frozen=True, slots=True)
class Stages:
    """The trunk's stages in forward order, and the head's module paths (more than one for distilled models)."""

    trunk: tuple[Stage, ...]
    heads: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The trunk's stages in forward order, without the head."""
        return tuple(stage.name for stage in self.trunk)

    @property
    def head(self) -> str:
        """Module path of the (first) head: `fc`, `classifier.6`."""
        return self.heads[0]

    def index(self, name: str) -> int:
        """Position of a stage, input first; the head comes after the trunk. Raises InputError if there is no such
        stage."""
        if name == HEAD:
            return len(self.trunk)
        if name not in self.names:
            raise InputError(_unknown("a stage", name, (*self.names, HEAD)))
        return self.names.index(name)

    def stage_of(self, tensor: str) -> str:
        """Name of the stage that a tensor belongs to; "head" for the head's tensors.

        Raises:
            InputError: no stage covers it.
        """
        if any(covers(path, tensor) for path in self.heads):
            return HEAD
        for stage in self.trunk:
            if stage.covers(tensor):
                return stage.name
        raise InputError(_unknown("a tensor of one of the stages", tensor, (*self.names, HEAD)))

    def holds(self, tensor: str) -> bool:
        """Whether a stage or the head covers a tensor."""
        return any(covers(path, tensor) for path in self.heads) or any(stage.covers(tensor) for stage in self.trunk)

    def tensors(self, stage: str, names: Iterable[str]) -> tuple[str, ...]:
        """Those of `names` that belong to a stage (or to "head"), in their order."""
        self.index(stage)
        return tuple(name for name in names if self.stage_of(name) == stage)

    def without(self, prefixes: Sequence[str]) -> Stages:
        """The same stages without the tensors under `prefixes`; empty stages are removed."""
        trunk = []
        for stage in self.trunk:
            left = tuple(own for own in stage.prefixes if not any(covers(prefix, own) for prefix in prefixes))
            if left:
                trunk.append(Stage(stage.name, left))
        return Stages(tuple(trunk), self.heads)


def declared_stages(declared: Mapping[str, Sequence[str]], heads: Sequence[str]) -> Stages:
    """The stages declared in a backbone's YAML. Raises InputError if one is called "head"."""
    if HEAD in declared:
        raise InputError(
            f"backbone.stages: expected stages of the trunk, received one called {HEAD!r}; try another name"
        )
    return Stages(tuple(Stage(name, tuple(prefixes)) for name, prefixes in declared.items()), tuple(heads))


def check_partition(stages: Stages, names: Sequence[str]) -> None:
    """Checks that every tensor is in exactly one stage, and that every prefix covers a tensor.

    Raises:
        InputError: lists all violations at once.
    """
    faults: list[str] = []
    owners = [(stage.name, prefix) for stage in stages.trunk for prefix in stage.prefixes]
    owners += [(HEAD, path) for path in stages.heads]
    for name in names:
        homes = [f"{stage} ({prefix})" for stage, prefix in owners if covers(prefix, name)]
        if not homes:
            faults.append(f"{name} is in no stage")
        elif len(homes) > 1:
            faults.append(f"{name} is in {' and '.join(homes)}")
    for stage, prefix in owners:
        if not any(covers(prefix, name) for name in names):
            near = ", ".join(nearest(prefix, sorted({name.rpartition(".")[0] for name in names})))
            hint = instead_of_prefix(prefix, lambda reading: any(covers(reading, name) for name in names)) or near
            faults.append(f"{stage}: {prefix} covers no tensor" + (f"; try {hint}" if hint else ""))
    if faults:
        more = [f"… and {len(faults) - 12} more"] if len(faults) > 12 else []
        raise InputError(
            "backbone.stages: expected stages that hold every parameter and buffer exactly once, received:\n  "
            + "\n  ".join(faults[:12] + more)
        )


def _unknown(what: str, name: str, choices: Sequence[str]) -> str:
    hint = nearest(name, choices)
    return f"expected {what} ({', '.join(choices)}), received {name!r}" + (f"; try {' or '.join(hint)}" if hint else "")


COUNTER = "num_batches_tracked"
"""A batch norm's counter of batches, which does not affect its function. Files older than PyTorch 0.4.1 have none."""


def is_counter(name: str) -> bool:
    """Whether the name is that of a batch counter."""
    return name.rpartition(".")[2] == COUNTER


def beside(name: str, leaf: str) -> str:
    """The name of another tensor of the same layer: `bn.weight` and `bias` give `bn.bias`."""
    layer, dot, _ = name.rpartition(".")
    return f"{layer}{dot}{leaf}"


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's parameters and buffers themselves, under all their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def tensor_names(module: nn.Module) -> tuple[str, ...]:
    """All names of parameters and buffers, including non-persistent buffers and every name of a shared tensor."""
    return tuple(tensors(module))


def aliases(module: nn.Module) -> list[tuple[nn.Parameter, tuple[str, ...]]]:
    """Each parameter once, by identity, with all its names (tied parameters have several)."""
    named: dict[int, tuple[nn.Parameter, list[str]]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        named.setdefault(id(parameter), (parameter, []))[1].append(name)
    return [(parameter, tuple(names)) for parameter, names in named.values()]
