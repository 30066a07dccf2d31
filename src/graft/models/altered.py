"""Alters layers of a library's network: they keep their tensors but compute another function.

This makes a network compute what Keras' network with the same weights computes: other strides, TensorFlow's padding, or
averages that exclude the padding. Every tensor keeps its name and shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn
from torch.nn import functional

from graft.config.faults import InputError, nearest

Settings = Mapping[str, Any]
SETTINGS = {"stride": "a whole number", "padding": "same", "border": "left_out"}


class BorderlessConv2d(nn.Conv2d):
    """A convolution after an average pooling that counted its padding as zeros.

    It corrects the means at the border to means over the actual inputs: `x · k² / n`, if n of the k² places of a window
    lie inside the image.
    """

    leaves_border_out: ClassVar[bool] = True
    window: ClassVar[int] = 3

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        inside = functional.avg_pool2d(torch.ones_like(input[:1, :1]), self.window, 1, self.window // 2)
        return super().forward(input / inside)


def resolved(module: nn.Module, rules: Mapping[str, Settings]) -> dict[str, dict[str, Any]]:
    """The settings of each altered module, by its path.

    Args:
        rules: settings by glob of paths: stride, padding (same) or border (left_out).

    Raises:
        InputError: a glob matches no module, or a module does not have the setting.
    """
    modules = dict(module.named_modules())
    settings_of: dict[str, dict[str, Any]] = {}
    for glob, settings in rules.items():
        paths = [path for path in modules if path and fnmatchcase(path, glob)]
        if not paths:
            near = ", ".join(nearest(glob, [path for path in modules if path])) or "a module's path"
            raise InputError(
                f"backbone.alter: expected globs of modules, received {glob!r}, which fits none; try {near}"
            )
        for path in paths:
            _check(path, modules[path], settings)
            settings_of.setdefault(path, {}).update(settings)
    return settings_of


def _check(path: str, module: nn.Module, settings: Any) -> None:
    if not isinstance(settings, Mapping):
        raise InputError(f"backbone.alter: expected {{SETTING: VALUE}} for {path}, received {settings!r}")
    slides = hasattr(module, "stride") and hasattr(module, "kernel_size")
    fits = {
        "stride": slides and isinstance(settings.get("stride"), int) and settings["stride"] > 0,
        "padding": type(module) in (nn.Conv2d, Conv2dSame) and settings.get("padding") == "same",
        "border": type(module) in (nn.Conv2d, nn.AvgPool2d) and settings.get("border") == "left_out",
    }
    for name, value in settings.items():
        if not fits.get(name, False):
            choices = ", ".join(f"{each}: {what}" for each, what in SETTINGS.items())
            raise InputError(
                f"backbone.alter: expected one of {{{choices}}} that a {type(module).__name__} has, "
                f"received {{{name}: {value}}} for {path}"
            )


def alter(module: nn.Module, altered: Mapping[str, Settings]) -> None:
    """Changes the settings of the modules in place. Their tensors remain the same objects."""
    for path, settings in altered.items():
        layer: Any = module.get_submodule(path)
        if "stride" in settings:
            layer.stride = (settings["stride"],) * 2
        if settings.get("border") == "left_out" and isinstance(layer, nn.AvgPool2d):
            layer.count_include_pad = False
        elif settings.get("border") == "left_out":
            module.set_submodule(path, _with_tensors_of(layer, BorderlessConv2d))
        if settings.get("padding") == "same":
            module.set_submodule(path, _with_tensors_of(layer, Conv2dSame))


def _with_tensors_of(layer: Any, kind: Any) -> nn.Module:
    """A layer of another class with the settings of a Conv2d and the same tensor objects."""
    copy: Any = kind(
        layer.in_channels, layer.out_channels, layer.kernel_size, stride=layer.stride,
        padding=0 if kind is Conv2dSame else layer.padding, dilation=layer.dilation, groups=layer.groups,
        bias=layer.bias is not None, device="meta",
    )  # fmt: skip
    copy.weight, copy.bias = layer.weight, layer.bias
    return copy.train(layer.training)
