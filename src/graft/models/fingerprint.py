"""Hashes that verify that frozen tensors have not changed, and by which a cache identifies a prefix."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx, nn

from graft.models.stages import tensors

_LIBRARIES = ("torch", "torchvision", "timm", "graft")
"""Their versions, not their source files, are part of a cache's key; graft's format number is."""
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
    """SHA-256 over the printed form of a module (layer types, strides, epsilons), the code of traced graphs, and the
    source files of layers that no library defines, which may compute something else tomorrow."""
    codes = [part.code for part in module.modules() if isinstance(part, fx.GraphModule)]
    sources = [digest for _, digest in sorted(_own_sources(module).items())]
    return hashlib.sha256(_ADDRESS.sub("", "\n".join([repr(module), *codes, *sources])).encode()).hexdigest()


def _own_sources(module: nn.Module) -> dict[str, str]:
    """The hash of each source file in which a user's own layers are defined, by the module's name."""
    kinds = {type(part) for part in module.modules() if not isinstance(part, fx.GraphModule)}
    sources: dict[str, str] = {}
    for kind in kinds:
        if kind.__module__.partition(".")[0] in _LIBRARIES:
            continue
        try:
            text = Path(inspect.getfile(kind)).read_bytes()
        except (OSError, TypeError):  # defined in a notebook, say
            text = b""
        sources[kind.__module__] = hashlib.sha256(text).hexdigest()
    return sources
