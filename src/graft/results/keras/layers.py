"""The Keras layer that computes what a torch layer does, and its weights in Keras' order of axes.

Formulas, the inverse of transfer/donors/keras/layers.py: torch's convolution kernel O, I, kH, kW becomes
kH, kW, I, O; a depthwise one I·M, 1, kH, kW becomes kH, kW, I, M; a dense one O, I becomes I, O, its rows in the order
H, W, C where a map was flattened (torch flattens C, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Weights = list[Any]
"""NumPy arrays in the order of Keras' `set_weights`."""


class Unmapped(ValueError):
    """Something that Keras has no layer for, or none that computes the same; str() names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """What flows from layer to layer."""

    tensor: Any
    """Of Keras: a map [N, H, W, C] or features [N, C]."""
    flattened: tuple[int, int, int] | None = None
    """Height, width and channels of the map that was flattened into these features, where it was more than 1×1."""
    positive: bool = False
    """Nothing in it is below zero, so that a border of zeros never wins a maximum."""

    @property
    def is_map(self) -> bool:
        return len(self.tensor.shape) == 4


ACTIVATIONS: dict[type[nn.Module], tuple[str, bool]] = {
    nn.ReLU: ("relu", True),
    nn.ReLU6: ("relu6", True),
    nn.SiLU: ("silu", False),
    nn.Hardswish: ("hard_silu", False),
    nn.Sigmoid: ("sigmoid", True),
    nn.Hardsigmoid: ("hard_sigmoid", True),
    nn.Tanh: ("tanh", False),
}
"""Keras' name of an activation, and whether it gives nothing below zero."""


def array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()


def pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def convolution(keras: Any, layer: nn.Conv2d, name: str, *, same: bool) -> tuple[Any, Weights, tuple[int, int]]:
    """The Keras layer, its weights, and the zeros that go above and left of its input (and below and right).

    Args:
        same: it pads as TensorFlow does.
    """
    if layer.padding_mode != "zeros":
        raise Unmapped(f"{name}: a border of {layer.padding_mode}")
    if isinstance(layer.padding, str) and not (layer.padding == "valid" or layer.stride == (1, 1)):
        raise Unmapped(f"{name}: padding={layer.padding!r} with a stride")
    same = same or layer.padding == "same"
    padding = (0, 0) if same or isinstance(layer.padding, str) else pair(layer.padding)
    stride = pair(layer.stride)
    options: dict[str, Any] = {
        "kernel_size": pair(layer.kernel_size),
        "strides": stride,
        "dilation_rate": pair(layer.dilation),
        "padding": "same" if same else "valid",
        "use_bias": layer.bias is not None,
        "name": name,
    }
    weight_OIHW = layer.weight
    if layer.groups == layer.in_channels > 1:
        if stride[0] != stride[1]:
            raise Unmapped(f"{name}: a depthwise convolution with strides {stride}")
        multiplier = layer.out_channels // layer.in_channels
        result = keras.layers.DepthwiseConv2D(depth_multiplier=multiplier, **options)
        kernel = weight_OIHW.reshape(layer.in_channels, multiplier, *weight_OIHW.shape[2:]).permute(2, 3, 0, 1)
    else:
        result = keras.layers.Conv2D(filters=layer.out_channels, groups=layer.groups, **options)
        kernel = weight_OIHW.permute(2, 3, 1, 0)
    return result, [array(kernel), *([array(layer.bias)] if layer.bias is not None else [])], padding


def batch_norm(keras: Any, layer: nn.BatchNorm1d | nn.BatchNorm2d, name: str) -> tuple[Any, Weights]:
    if layer.running_mean is None or layer.running_var is None:
        raise Unmapped(f"{name}: a batch-norm without running statistics")
    momentum = 0.99 if layer.momentum is None else 1 - layer.momentum
    result = keras.layers.BatchNormalization(
        axis=-1, epsilon=layer.eps, momentum=momentum, scale=layer.affine, center=layer.affine, name=name
    )
    affine = [layer.weight, layer.bias] if layer.affine else []
    return result, [array(tensor) for tensor in (*affine, layer.running_mean, layer.running_var)]


def dense(keras: Any, layer: nn.Linear, name: str, flattened: tuple[int, int, int] | None) -> tuple[Any, Weights]:
    bias = dict(layer.named_parameters()).get("bias")
    result = keras.layers.Dense(layer.out_features, use_bias=bias is not None, name=name)
    kernel_OI = layer.weight
    if flattened is not None:
        height, width, channels = flattened
        kernel_OI = kernel_OI.reshape(-1, channels, height, width).permute(0, 2, 3, 1).reshape(layer.out_features, -1)
    return result, [array(kernel_OI.t()), *([array(bias)] if bias is not None else [])]


def activation(keras: Any, layer: nn.Module, name: str) -> tuple[Any, bool] | None:
    """The Keras layer and whether it gives nothing below zero; None where this is no activation that Keras has."""
    if isinstance(layer, nn.ReLU6) or (isinstance(layer, nn.Hardtanh) and (layer.min_val, layer.max_val) == (0, 6)):
        return keras.layers.Activation("relu6", name=name), True
    if isinstance(layer, nn.LeakyReLU):
        return keras.layers.LeakyReLU(negative_slope=layer.negative_slope, name=name), False
    if isinstance(layer, nn.ELU):
        return keras.layers.ELU(alpha=layer.alpha, name=name), False
    if isinstance(layer, nn.GELU):
        return (keras.layers.Activation("gelu", name=name), False) if layer.approximate == "none" else None
    entry = ACTIVATIONS.get(type(layer))
    return None if entry is None else (keras.layers.Activation(entry[0], name=name), entry[1])
