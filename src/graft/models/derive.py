"""Derives stages and head from the module tree of a backbone that declares none. Works on modules without storage."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from graft.config.faults import InputError, one_line
from graft.models.stages import Stage, Stages, covers, tensor_names

NUMBERED = re.compile(r"(.*\D)(\d+)")
# Names that are clear in a range (layer1-3); conv4_1 would not be.
PLAIN = re.compile(r"[a-z]+\d+")
# A container is split into its blocks when it holds at least this share of the trunk's values; a smaller one is a stem.
MAIN_SHARE = 0.05
# Siblings numbered alike are the chain of stages when they hold at least this share together.
FAMILY_SHARE = 0.3
SHOWN = 120  # letters of why a forward pass failed


def derive_heads(build: Callable[[int], nn.Module], name: str) -> tuple[str, ...]:
    """Paths of the modules whose tensors depend on the number of classes.

    Args:
        build: makes a module without storage for a number of classes.

    Raises:
        InputError: no tensor depends on it.
    """
    few, many = (_shapes(build(classes)) for classes in (7, 11))
    changed = [tensor for tensor in few | many if few.get(tensor) != many.get(tensor)]
    heads = tuple(dict.fromkeys(tensor.rpartition(".")[0] for tensor in changed))
    if not heads or "" in heads:
        raise InputError(
            f"backbone.head: expected a layer of {name} that changes shape with the class count, "
            f"received {'a bare parameter' if heads else 'none'}; try backbone.head=<module path>"
        )
    return heads


def call_order(module: nn.Module, image_size: int, channels: int, say: Callable[[str], None]) -> dict[str, int]:
    """The position of each module path in the order of first calls, from a forward pass without storage.

    A module tree shows which modules belong together, but not always the order in which they run. The result is {} if
    the model has an operation that does not work without storage; the order of definition is the best guess then.

    Args:
        say: receives a message in this case.
    """
    order: dict[str, int] = {}

    def note(path: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            order.setdefault(path, len(order))

        return hook

    hooks = [child.register_forward_pre_hook(note(path)) for path, child in module.named_modules() if path]
    training = module.training
    try:
        with torch.no_grad():
            module.eval()(torch.empty(2, channels, image_size, image_size, device="meta"))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        say(
            f"the order of the stages is a guess: that in which {type(module).__name__} defines its layers, as its"
            f" forward pass cannot be followed without images ({one_line(error)[:SHOWN]}); backbone.stages= declares"
            " them"
        )
        return {}
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return order


def derive_stages(module: nn.Module, heads: Sequence[str], order: Mapping[str, int]) -> Stages:
    """Ordered stages: the blocks of a chain, with `stem` for whatever runs before it; what runs after it joins the
    last.

    Siblings numbered consecutively from 1 or more (layer1 … layer4) keep their names. Other blocks are called stage1,
    stage2, …
    """
    tree = _Tree(module, tuple(heads), order)
    stem, units = _chain(tree, "")
    if not stem and len(units) > 1 and not _numbered_alike([unit[0] for unit in units]):
        stem = units.pop(0)
    names = [unit[0].rpartition(".")[2] for unit in units]
    if not _numbered_alike(names, first=1) or not all(PLAIN.fullmatch(name) for name in names):
        names = [f"stage{number}" for number in range(1, len(units) + 1)]
    stages = [Stage("stem", tuple(stem))] if stem else []
    stages += [Stage(name, tuple(prefixes)) for name, prefixes in zip(names, units, strict=True)]
    return Stages(tuple(stages), tuple(heads))


@dataclass(frozen=True, slots=True)
class _Tree:
    """A module's trunk as a tree of paths."""

    module: nn.Module
    heads: tuple[str, ...]
    order: Mapping[str, int]

    def holds_head(self, path: str) -> bool:
        return any(covers(path, head) for head in self.heads)

    def at(self, path: str) -> nn.Module:
        return self.module.get_submodule(path)

    def direct(self, path: str) -> list[str]:
        """Tensors that a module holds itself."""
        own = (name for name in tensor_names(self.at(path)) if "." not in name)
        return [_join(path, name) for name in own] if path not in self.heads else []

    def size(self, path: str) -> int:
        """The number of values in the trunk's parameters and buffers below a path."""
        at = self.at(path)
        tensors = [*at.named_parameters(prefix=path), *at.named_buffers(prefix=path)]
        return sum(tensor.numel() for name, tensor in tensors if not any(covers(head, name) for head in self.heads))

    def children(self, path: str) -> list[str]:
        """Children that hold trunk tensors, in the order of their first calls (then of definition)."""
        paths = [_join(path, name) for name, _ in self.at(path).named_children()]
        paths = [child for child in paths if self.size(child) and child not in self.heads]
        places: dict[str, float] = {}
        last = -1.0
        for child in paths:
            called = [place for other, place in self.order.items() if covers(child, other)]
            last = float(min(called)) if called else last
            places[child] = last
        return sorted(paths, key=lambda child: (self.holds_head(child), places[child]))

    def composite(self, path: str) -> bool:
        """Whether a module has submodules with tensors (a block, not a layer)."""
        return any(tensor_names(child) for child in self.at(path).children())


def _chain(tree: _Tree, path: str) -> tuple[list[str], list[list[str]]]:
    """Splits the modules below a path into those that run first and the blocks of a chain, each a list of prefixes."""
    children = tree.children(path)
    stem, units = tree.direct(path), list[list[str]]()
    family = _family(tree, children)
    split = [] if family else _containers(tree, path, children)
    for child in children:
        if tree.holds_head(child):
            _append(stem, units, _trunk_parts(tree, child))
        elif child in family:
            units.append([child])
        elif child in split:
            first, blocks = _chain(tree, child)
            _append(stem, units, first)
            units += blocks
        elif (family or split) or _is_norm(tree, child):
            _append(stem, units, [child])
        elif not tree.composite(child) and not isinstance(tree.at(path), nn.Sequential) and not units:
            stem.append(child)
        else:
            units.append([child])
    return stem, units


def _family(tree: _Tree, children: Sequence[str]) -> list[str]:
    """Siblings with consecutive numbers (layer1 … layer4) that hold much of this subtree."""
    families: dict[str, list[str]] = {}
    for child in children:
        match = NUMBERED.fullmatch(child.rpartition(".")[2])
        if match and tree.composite(child) and not tree.holds_head(child):
            families.setdefault(match[1], []).append(child)
    chains = [family for family in families.values() if len(family) > 1 and _numbered_alike(family)]
    largest = max(chains, key=lambda family: sum(map(tree.size, family)), default=[])
    return largest if sum(map(tree.size, largest)) > FAMILY_SHARE * sum(map(tree.size, children)) else []


def _containers(tree: _Tree, path: str, children: Sequence[str]) -> list[str]:
    """Children to split: chains of blocks, otherwise chains of layers, otherwise whichever child holds nearly
    everything."""
    body = [child for child in children if not tree.holds_head(child)]
    whole = sum(tree.size(child) for child in body)
    here = tree.at(path)
    if isinstance(here, nn.Sequential | nn.ModuleList) and len(body) > 1:
        return []
    large = [child for child in body if tree.size(child) >= MAIN_SHARE * whole]
    lists = [child for child in large if isinstance(tree.at(child), nn.Sequential | nn.ModuleList)]
    chains = [child for child in lists if len(tree.children(child)) > 1]
    blocks = [child for child in chains if any(tree.composite(part) for part in tree.children(child))]
    if blocks or chains:
        return blocks or chains
    return [child for child in large if tree.composite(child) and tree.size(child) > 0.6 * whole]


def _trunk_parts(tree: _Tree, path: str) -> list[str]:
    """The parts that do not belong to the head, below a module that contains the head."""
    parts = tree.direct(path)
    for child in tree.children(path):
        parts += _trunk_parts(tree, child) if tree.holds_head(child) else [child]
    return parts


def _append(stem: list[str], units: list[list[str]], prefixes: Sequence[str]) -> None:
    (units[-1] if units else stem).extend(prefixes)


def _is_norm(tree: _Tree, path: str) -> bool:
    """Whether a layer has only vectors; it then belongs to the layer before it."""
    return not tree.composite(path) and all(parameter.dim() <= 1 for parameter in tree.at(path).parameters())


def _numbered_alike(names: Sequence[str], first: int = 0) -> bool:
    """Whether the last parts of the names are the same word with consecutive numbers, from `first` or more."""
    matches = [NUMBERED.fullmatch(name.rpartition(".")[2]) for name in names]
    parts = [(match[1], int(match[2])) for match in matches if match]
    if not parts or len(parts) != len(names) or len({word for word, _ in parts}) > 1:
        return False
    start = parts[0][1]
    return start >= first and [number for _, number in parts] == list(range(start, start + len(parts)))


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
