"""A backbone's own stochastic depth and dropout, by the names that its constructor has for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from graft.config.faults import InputError
from graft.config.schema import BackboneConfig, Library
from graft.models.backbones import construct

# What constructors call them; the first that one takes, and that changes something, is used.
ARGUMENTS: Mapping[Library, Mapping[str, tuple[str, ...]]] = {
    Library.timm: {"drop_path": ("drop_path_rate",), "drop_rate": ("drop_rate",)},
    Library.torchvision: {"drop_path": ("stochastic_depth_prob",), "drop_rate": ("dropout", "drop_rate")},
}
WORDS = {"drop_path": "stochastic depth", "drop_rate": "dropout"}


def drop_kwargs(backbone: BackboneConfig, kwargs: Mapping[str, Any]) -> dict[str, float]:
    """The constructor's arguments for `drop_path` and `drop_rate`, where they are given.

    Args:
        kwargs: the constructor's other arguments.

    Raises:
        InputError: a constructor that takes no such rate, or does nothing with it.
    """
    found: dict[str, float] = {}
    for key in WORDS:
        rate: float | None = getattr(backbone, key)
        if rate is not None:
            found[_argument(backbone, key, kwargs)] = rate
    return found


def _argument(backbone: BackboneConfig, key: str, kwargs: Mapping[str, Any]) -> str:
    known = ARGUMENTS[backbone.library][key]
    for argument in known:
        if argument in kwargs:
            raise InputError(
                f"backbone.{key}: expected one value, received another as backbone.kwargs.{argument}; leave one out"
            )
        if _has_effect(backbone, argument, kwargs):
            return argument
    raise InputError(
        f"backbone.{key}: expected a backbone whose constructor takes {' or '.join(known)}, received"
        f" {backbone.library.value}'s {backbone.name}, which has no {WORDS[key]} to set; try backbone.{key}=null"
    )


def _has_effect(backbone: BackboneConfig, argument: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether two rates give two networks; a constructor that refuses the argument gives none."""
    try:
        low, high = (_numbers(backbone, {**kwargs, argument: rate}) for rate in (0.1, 0.3))
    except TypeError:
        return False
    return low != high


def _numbers(backbone: BackboneConfig, kwargs: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """Every fractional number that a module of the network keeps."""
    module: nn.Module = construct(backbone.library, backbone.name, kwargs, num_classes=2, device="meta", check=False)
    return {
        (path, name): value
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, float)
    }
