"""A user's own network, built by a function that the config names by import path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from graft.config.faults import InputError
from graft.config.import_path import call_object, import_object, takes
from graft.models.valueless import Valueless, replace_first_convolution

KEY = "backbone.target"
CHANNELS = ("in_chans", "in_channels", "channels")
"""What builders call the number of the images' channels."""


def construct_own(
    target: str, kwargs: Mapping[str, Any], *, num_classes: int, channels: int = 3, device: str = "cpu"
) -> nn.Module:
    """The module that target(num_classes=…, **kwargs) returns.

    A builder that names a parameter for the channels receives it; otherwise the first convolution is replaced, if it
    takes three channels and the images have another number.

    Args:
        device: "meta" builds without storage. A builder that reads values of its tensors is run on the CPU, and its
            module moved there.

    Raises:
        InputError: the builder cannot be imported or called, fails, or returns something else than a module.
    """
    named = next((name for name in CHANNELS if takes(import_object(KEY, target), name)), None)
    arguments: dict[str, Any] = {"num_classes": num_classes, **({named: channels} if named else {}), **kwargs}
    if device != "meta":
        return _built(target, arguments, channels).to(device)
    try:
        with Valueless():
            return _built(target, arguments, channels).to("meta")
    except InputError:
        with torch.random.fork_rng(devices=[]):
            return _built(target, arguments, channels).to("meta")


def _built(target: str, arguments: Mapping[str, Any], channels: int) -> nn.Module:
    module = call_object(KEY, target, **arguments)
    if not isinstance(module, nn.Module):
        raise InputError(
            f"{KEY}: expected {target} to return a torch.nn.Module, received a {type(module).__name__}; "
            "try a function that returns the network"
        )
    first = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
    if channels != 3 and first is not None and first.in_channels == 3:
        replace_first_convolution(module, channels)
    return module
