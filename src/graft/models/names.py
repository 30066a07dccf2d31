"""The network's tensors by name: as many names as the modules give, one parameter by identity."""

from __future__ import annotations

import torch
from torch import nn

COUNTER = "num_batches_tracked"
"""A batch norm's count of batches, which plays no part in its function; files older than PyTorch 0.4.1 have none."""


def is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == COUNTER


def beside(name: str, leaf: str) -> str:
    """The name of another tensor of the same layer: `bn.weight`, `bias` gives `bn.bias`."""
    layer, dot, _ = name.rpartition(".")
    return f"{layer}{dot}{leaf}"


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's parameters and buffers themselves, under every name each goes by."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def tensor_names(module: nn.Module) -> tuple[str, ...]:
    """Every parameter and buffer name, non-persistent buffers and every name of a shared tensor included."""
    return tuple(tensors(module))


def aliases(module: nn.Module) -> list[tuple[nn.Parameter, tuple[str, ...]]]:
    """Each parameter once, by identity, with every name it goes by (tied parameters have several)."""
    named: dict[int, tuple[nn.Parameter, list[str]]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        named.setdefault(id(parameter), (parameter, []))[1].append(name)
    return [(parameter, tuple(names)) for parameter, names in named.values()]
