"""Hashes that verify that frozen tensors have not changed, and by which a cache identifies a prefix."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import fx, nn

from graft.models.stages import tensors

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def fingerprint(module: nn.Module, names: Iterable[str] | None = None) -> str:
    """One SHA-256 over the named parameters and buffers (None: all of them), including their names."""
    return combined(digests(module, tensors(module) if names is None else names))


def digests(module: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the dtype, shape and bytes of each named tensor, independent of its memory layout."""
    values = tensors(module)
    return {name: digest(values[name]) for name in sorted(names)}


def combined(digest_by_name: Mapping[str, str]) -> str:
    """One SHA-256 over names and digests, independent of their order."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digest_by_name.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 of one tensor's dtype, shape and bytes."""
    plain = tensor.detach().cpu().contiguous()
    sha = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)} ".encode())
    sha.update(memoryview(cast(Any, plain.reshape(-1).view(torch.uint8).numpy())))
    return sha.hexdigest()


def structure_hash(module: nn.Module) -> str:
    """SHA-256 over the printed form of a module (layer types, strides, epsilons) and the code of traced graphs."""
    codes = [part.code for part in module.modules() if isinstance(part, fx.GraphModule)]
    return hashlib.sha256(_ADDRESS.sub("", "\n".join([repr(module), *codes])).encode()).hexdigest()
