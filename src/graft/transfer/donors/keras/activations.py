"""Keras' activation functions in torch, by their names and settings in a model's config (keras/src/activations)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Function = Callable[[Tensor], Tensor]


class Unknown(ValueError):
    """A model's config contains something that graft cannot compute."""


def activation(config: Any, version: int = 3) -> Function:
    """The function for the entry `activation` in a layer's config.

    Args:
        config: a name, null, or a layer in Keras' serialised form.
        version: version of Keras; its hard sigmoid changed with version 3.

    Raises:
        Unknown: it is not one of Keras' own activations.
    """
    if config is None:
        return _unchanged
    if isinstance(config, Mapping):
        settings = config.get("config")
        if isinstance(settings, Mapping) and config.get("class_name") in LAYERS:
            return LAYERS[str(config["class_name"])](settings)
        config = settings if isinstance(settings, str) else config.get("class_name")
    name = str(config)
    if version < 3 and name in _BEFORE_3:
        return _BEFORE_3[name]
    if name not in NAMES:
        raise Unknown(f"the activation {name[:40]!r}")
    return NAMES[name]


def relu(negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0) -> Function:
    """max_value above max_value, x above the threshold, and negative_slope · (x − threshold) below the threshold."""

    def compute(x: Tensor) -> Tensor:
        y = torch.where(x > threshold if threshold else x >= 0, x, negative_slope * (x - threshold))
        return y if max_value is None else y.clamp(max=max_value)

    return compute


def _unchanged(x: Tensor) -> Tensor:
    return x


def _hard_sigmoid(x: Tensor) -> Tensor:
    return functional.hardsigmoid(x)


def _hard_sigmoid_before_3(x: Tensor) -> Tensor:
    return (0.2 * x + 0.5).clamp(0, 1)


def _squareplus(x: Tensor) -> Tensor:
    return (x + (x * x + 4).sqrt()) / 2


def _sparse_plus(x: Tensor) -> Tensor:
    return torch.where(x <= -1, 0.0, torch.where(x < 1, (x + 1) ** 2 / 4, x))


_BEFORE_3: Mapping[str, Function] = {"hard_sigmoid": _hard_sigmoid_before_3}
NAMES: Mapping[str, Function] = {
    "celu": functional.celu,
    "elu": functional.elu,
    "exponential": torch.exp,
    "gelu": functional.gelu,
    "glu": lambda x: functional.glu(x, dim=-1),
    "hard_shrink": functional.hardshrink,
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": functional.hardswish,
    "hard_swish": functional.hardswish,
    "hard_tanh": functional.hardtanh,
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.2),
    "linear": _unchanged,
    "log_sigmoid": functional.logsigmoid,
    "log_softmax": lambda x: x.log_softmax(-1),
    "mish": functional.mish,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "selu": functional.selu,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "soft_shrink": functional.softshrink,
    "softmax": lambda x: x.softmax(-1),
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "sparse_plus": _sparse_plus,
    "sparse_sigmoid": lambda x: (0.5 * (x + 1)).clamp(0, 1),
    "squareplus": _squareplus,
    "swish": functional.silu,
    "tanh": torch.tanh,
    "tanh_shrink": functional.tanhshrink,
}
"""Activations by name, with the settings that the name implies."""


def _setting(config: Mapping[str, Any], *names: str, default: Any) -> Any:
    """A setting by its present name or an earlier one; a number may lie in Keras' form of an array."""
    value = next((config[name] for name in names if config.get(name) is not None), default)
    while isinstance(value, Mapping):
        value = value.get("config", value.get("value"))
    return value


def _relu_layer(config: Mapping[str, Any]) -> Function:
    slope = float(_setting(config, "negative_slope", default=0.0))
    return relu(slope, _setting(config, "max_value", default=None), float(_setting(config, "threshold", default=0.0)))


def _softmax_layer(config: Mapping[str, Any]) -> Function:
    axis = _setting(config, "axis", default=-1)
    if not isinstance(axis, int):
        raise Unknown(f"a softmax over the axes {axis}")
    return lambda x: x.softmax(axis)


LAYERS: Mapping[str, Callable[[Mapping[str, Any]], Function]] = {
    "ELU": lambda config: lambda x: functional.elu(x, float(_setting(config, "alpha", default=1.0))),
    "LeakyReLU": lambda config: (
        lambda x: functional.leaky_relu(x, float(_setting(config, "negative_slope", "alpha", default=0.3)))
    ),
    "ReLU": _relu_layer,
    "Softmax": _softmax_layer,
}
"""Activations by class, for layers with settings."""
