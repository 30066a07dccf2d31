"""The hash by which frozen tensors are proven not to have moved, and by which a cache knows a prefix."""

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
    """One sha256 over the named parameters and buffers (null: all of them), names included."""
    return combined(digests(module, tensors(module) if names is None else names))


def digests(module: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """sha256 of each named tensor's dtype, shape and values' bytes; memory layout does not enter."""
    values = tensors(module)
    return {name: digest(values[name]) for name in sorted(names)}


def combined(digest_by_name: Mapping[str, str]) -> str:
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digest_by_name.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def digest(tensor: torch.Tensor) -> str:
    """sha256 of one tensor's dtype, shape and values' bytes."""
    plain = tensor.detach().cpu().contiguous()
    sha = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)} ".encode())
    sha.update(memoryview(cast(Any, plain.reshape(-1).view(torch.uint8).numpy())))
    return sha.hexdigest()


def structure_hash(module: nn.Module) -> str:
    """SHA-256 over what the module prints of itself (kinds, strides, epsilons) and the code of traced graphs."""
    codes = [part.code for part in module.modules() if isinstance(part, fx.GraphModule)]
    return hashlib.sha256(_ADDRESS.sub("", "\n".join([repr(module), *codes])).encode()).hexdigest()
