"""Building a model without storage, and for images of other channels than three."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class Valueless(TorchFunctionMode):
    """Puts tensors that will be filled later on the meta device.

    `torch.device("meta")` would also affect arange and linspace, from which constructors read numbers (drop rates,
    say).
    """

    factories = frozenset(
        {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.empty_strided}
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self.factories and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def replace_first_convolution(module: nn.Module, channels: int) -> None:
    """Replaces the first convolution by one with another number of input channels, initialised like the library's."""
    path, first = next(
        (path, child)
        for path, child in module.named_modules()
        if isinstance(child, nn.Conv2d) and child.in_channels == 3
    )
    new = nn.Conv2d(
        channels,
        first.out_channels,
        (first.kernel_size[0], first.kernel_size[1]),
        stride=(first.stride[0], first.stride[1]),
        padding=first.padding if isinstance(first.padding, str) else (first.padding[0], first.padding[1]),
        dilation=(first.dilation[0], first.dilation[1]),
        bias=first.bias is not None,
        padding_mode=first.padding_mode,
    )
    with torch.no_grad():
        if not first.weight.is_meta:
            spread = first.weight.std().item()
            new.weight.normal_(0.0, spread if math.isfinite(spread) else 0.02)
            if first.bias is not None and new.bias is not None:
                new.bias.copy_(first.bias)
    module.set_submodule(path, new)
