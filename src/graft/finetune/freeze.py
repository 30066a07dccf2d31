"""Freezing. `parse_freeze` is pure; `apply_freeze` mutates the network: requires_grad and training mode."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from graft.config.faults import InputError, nearest
from graft.config.patterns import instead_of_prefix
from graft.config.schema import FreezeBatchNorm
from graft.models.stages import HEAD, Stages, aliases, covers, tensors

FORMS = "none, backbone, a stage, or a range such as layer1-3, joined by +"
NUMBERED = re.compile(r"(?P<family>.*?)(?P<number>\d+)")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
RANGE = re.compile(r"(?P<first>[^-]+)-(?P<last>[^-]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A freeze state: the tensors that do not train."""

    expression: str
    """The expression as written by the user."""
    names: frozenset[str]
    """Names of the frozen parameters and buffers."""
    stages: tuple[str, ...]
    """Stages whose tensors are all frozen, in forward order."""
    parts: tuple[str, ...] = ()
    """Stages with some frozen tensors."""
    implied: tuple[str, ...] = ()
    """Stages that are frozen without being named, because a range begins at the first numbered stage."""

    def __str__(self) -> str:
        if not self.names:
            return "nothing"
        implied = f" ({', '.join(self.implied)} implied)" if self.implied else ""
        return ", ".join((*self.stages, *(f"part of {stage}" for stage in self.parts))) + implied


def parse_freeze(
    expression: str | Sequence[str], stages: Stages, tensor_names: Iterable[str], key: str = "freeze"
) -> Frozen:
    """Parses a stage expression (a string) or literal name prefixes (a list).

    Args:
        tensor_names: every parameter and buffer of the network.
        key: the config key of the expression, for errors.

    Raises:
        InputError: a stage or prefix matches nothing, or the expression is invalid.
    """
    names = tuple(tensor_names)
    if isinstance(expression, str):
        chosen, implied = _stages_of(expression, stages, key)
        frozen = frozenset(name for name in names if stages.stage_of(name) in chosen)
        return _frozen(expression, frozen, implied, stages, names)
    if not _is_list_of_names(expression):
        raise InputError(f"{key}: expected {FORMS}; or a list of name prefixes; received {expression!r}; try none")
    for prefix in expression:
        if not any(covers(prefix, name) for name in names):
            raise _unknown_prefix(prefix, stages, names, key)
    frozen = frozenset(name for name in names if any(covers(prefix, name) for prefix in expression))
    return _frozen(f"[{','.join(expression)}]", frozen, (), stages, names)


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(prefix, str) for prefix in value)


def nothing_frozen(stages: Stages, tensor_names: Iterable[str]) -> Frozen:
    """The freeze state in which everything trains."""
    return parse_freeze("none", stages, tensor_names)


def without_stage(frozen: Frozen, stage: str, stages: Stages, tensor_names: Iterable[str]) -> Frozen:
    """The same state with one stage unfrozen."""
    names = frozenset(name for name in frozen.names if stages.stage_of(name) != stage)
    implied = tuple(name for name in frozen.implied if name != stage)
    return _frozen(f"{frozen.expression} without {stage}", names, implied, stages, tuple(tensor_names))


def with_names(frozen: Frozen, names: frozenset[str], stages: Stages, tensor_names: Iterable[str]) -> Frozen:
    """The same state, under the same expression, with exactly these tensors frozen."""
    return _frozen(frozen.expression, names, frozen.implied, stages, tuple(tensor_names))


def _frozen(
    expression: str, frozen: frozenset[str], implied: tuple[str, ...], stages: Stages, names: Sequence[str]
) -> Frozen:
    thawed = {stages.stage_of(name) for name in names if name not in frozen}
    touched = {stages.stage_of(name) for name in frozen}
    ordered = (*stages.names, HEAD)
    return Frozen(
        expression=expression,
        names=frozen,
        stages=tuple(stage for stage in ordered if stage in touched - thawed),
        parts=tuple(stage for stage in ordered if stage in touched & thawed),
        implied=implied,
    )


def _stages_of(expression: str, stages: Stages, key: str) -> tuple[set[str], tuple[str, ...]]:
    terms = [term.strip() for term in expression.split("+")]
    named: set[str] = set()
    before: set[str] = set()
    for term in terms:
        if term in (*stages.names, HEAD):
            named.add(term)
        elif term == "backbone":
            named.update(stages.names)
        elif term == "none" and len(terms) == 1:
            continue
        elif match := RANGE.fullmatch(term):
            first, last = _ends(match, stages, key)
            named.update(stages.names[first : last + 1])
            if _is_first_numbered(stages.names, first):
                before.update(stages.names[:first])
        else:
            raise _unknown_stage(term, stages, key)
    return named | before, tuple(stage for stage in stages.names if stage in before - named)


def _ends(match: re.Match[str], stages: Stages, key: str) -> tuple[int, int]:
    first, last = match["first"].strip(), match["last"].strip()
    numbered = NUMBERED.fullmatch(first)
    if last.isdecimal() and numbered:
        last = f"{numbered['family']}{int(last)}"
    for stage in (first, last):
        if stage not in stages.names:
            raise _unknown_stage(stage, stages, key)
    positions = stages.names.index(first), stages.names.index(last)
    if positions[0] > positions[1]:
        raise InputError(f"{key}: expected a range towards the head, received {first} to {last}; try {last}-{first}")
    return positions


def _is_first_numbered(names: Sequence[str], position: int) -> bool:
    match = NUMBERED.fullmatch(names[position])
    if match is None:
        return False
    families = [NUMBERED.fullmatch(name) for name in names]
    return not any(earlier and earlier["family"] == match["family"] for earlier in families[:position])


def _unknown_stage(term: str, stages: Stages, key: str) -> InputError:
    near = nearest(term, (*stages.names, "none", "backbone", HEAD), 1)
    hint = f"; try {near[0]}" if near else ""
    return InputError(
        f"{key}: expected {FORMS}, of the stages {', '.join(stages.names)}; received {term!r}, which names none{hint}"
        " (literal name prefixes go in a list: freeze=[…])"
    )


def _unknown_prefix(prefix: str, stages: Stages, names: Sequence[str], key: str) -> InputError:
    parts = sorted({".".join(name.split(".")[: depth + 1]) for name in names for depth in range(name.count(".") + 1)})
    near = nearest(prefix, parts)
    instead = instead_of_prefix(prefix, lambda reading: any(covers(reading, name) for name in names))
    hint = f"; try {instead or ', '.join(near)}" if instead or near else ""
    if prefix in (*stages.names, HEAD):
        hint = f"; try {key}={prefix} without brackets, which names the stage"
    return InputError(
        f"{key}: expected name prefixes, received {prefix!r}, which matches no parameter"
        f" (stages: {', '.join(stages.names)}){hint}"
    )


class StaysInEval:
    """Replaces the `train` of one module, so that no `train()` call takes the module out of eval mode.

    It is stored in the instance's `__dict__`. The state dict therefore does not change, a deep copy has its own, and
    modules that torch.fx shares with another network keep it. Children are not affected.
    """

    __slots__ = ("module",)

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        self.module.training = False
        for child in self.module.children():
            child.train(mode)
        return self.module


def apply_freeze(module: nn.Module, frozen: Frozen, freeze_bn: FreezeBatchNorm, *, heads: Sequence[str]) -> None:
    """Mutates `module` into this freeze state, whatever its current state.

    Frozen parameters have requires_grad False and no gradient, so that no optimizer changes them. Frozen stages always
    run in eval mode: batch-norm keeps its statistics (unless `freeze_bn` is none), and dropout and stochastic depth are
    off, because noise before a fixed function only blurs the input of the trained part.

    Args:
        heads: module paths of the head, which `freeze_bn=all` does not affect.
    """
    check_tied(module, frozen)
    for parameter, names in aliases(module):
        is_frozen = names[0] in frozen.names
        parameter.requires_grad_(not is_frozen)
        if is_frozen:
            parameter.grad = None
    in_eval = modules_in_eval(module, frozen, freeze_bn, heads=heads)
    for name, part in module.named_modules():
        if name in in_eval:
            part.__dict__["train"] = StaysInEval(part)
        else:
            part.__dict__.pop("train", None)
    module.train(module.training)


def modules_in_eval(module: nn.Module, frozen: Frozen, freeze_bn: FreezeBatchNorm, *, heads: Sequence[str]) -> set[str]:
    """Names of the modules that stay in eval mode in this freeze state.

    A module is frozen if it has tensors, itself or in submodules, and all of them are frozen. A module without tensors
    is frozen if it is inside such a module or between two of them (a dropout between frozen layers).
    """
    names = tensors(module)
    holding = {above for name in names for above in _ancestors(name)}
    frozen_holders = holding - {above for name in names if name not in frozen.names for above in _ancestors(name)}
    leaves = [name for name, part in module.named_modules() if not any(part.children())]
    quiet = _between_frozen(leaves, holding, frozen_holders)
    norms = {name for name, part in module.named_modules() if isinstance(part, BATCH_NORMS)}
    for name, _ in module.named_modules():
        if name in frozen_holders or any(above in frozen_holders for above in _ancestors(name)):
            quiet.add(name)
    if freeze_bn is FreezeBatchNorm.none:
        return quiet - norms
    if freeze_bn is FreezeBatchNorm.all:
        return quiet | {name for name in norms if not any(covers(head, name) for head in heads)}
    return quiet


def _between_frozen(leaves: Sequence[str], holding: set[str], frozen_holders: set[str]) -> set[str]:
    """Leaves without tensors whose neighbours with tensors, in order of registration, are both frozen."""
    between: set[str] = set()
    pending: list[str] = []
    frozen_before = False
    for name in leaves:
        if name not in holding:
            pending.append(name)
            continue
        if name in frozen_holders and frozen_before:
            between.update(pending)
        pending, frozen_before = [], name in frozen_holders
    return between


def _ancestors(name: str) -> Iterator[str]:
    """For `a.b.weight`: `a.b`, then `a`."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def check_tied(module: nn.Module, frozen: Frozen) -> None:
    """Raises InputError if a parameter has several names and only some of them are frozen."""
    for _, names in aliases(module):
        together = [name for name in names if name in frozen.names]
        if together and len(together) < len(names):
            free = next(name for name in names if name not in frozen.names)
            raise InputError(
                f"freeze: expected tied tensors to be frozen together, received {frozen.expression}, which freezes"
                f" {together[0]} and not {free}, the same tensor"
            )


def unmoving(module: nn.Module, frozen: Frozen, freeze_bn: FreezeBatchNorm, *, heads: Sequence[str]) -> frozenset[str]:
    """The tensors that keep every bit in this freeze state.

    With `freeze_bn=none`, the batch-norm statistics of frozen stages change and are not included. With `all`, those of
    the stages that train are included too.

    Args:
        heads: module paths of the head, whose statistics change under `freeze_bn=all` if the head trains.
    """
    if freeze_bn is FreezeBatchNorm.none:
        return frozen.names - statistics(module)
    if freeze_bn is FreezeBatchNorm.all:
        return frozen.names | statistics(module, but=heads)
    return frozen.names


def statistics(module: nn.Module, *, but: Sequence[str] = ()) -> frozenset[str]:
    """Names of the batch-norms' buffers.

    Args:
        but: module paths to exclude.
    """
    return frozenset(
        f"{name}.{buffer}"
        for name, part in module.named_modules()
        if isinstance(part, BATCH_NORMS) and not any(covers(prefix, name) for prefix in but)
        for buffer, _ in part.named_buffers(recurse=False)
    )
