"""Keras' layers with tensors in torch, on values in Keras' own layout and with tensors as stored in the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graft.transfer.donors.keras.activations import Unknown, activation
from graft.transfer.donors.keras.functions import numbers
from graft.transfer.donors.keras.graph import Layer
from graft.transfer.donors.keras.windows import each_axis, padded

Variables = Mapping[str, Tensor]
Computation = Callable[[Variables, Tensor], Tensor]


def computation_of(layer: Layer, version: int = 3) -> Computation:
    """The function of a layer from its variables (by Keras' names) and its input, in eval mode.

    Raises:
        Unknown: graft does not implement its class or its settings.
    """
    name, config = layer.class_name, layer.config
    function = _LAYERS.get(name)
    if function is None:
        raise Unknown(f"a {name[:40]}")
    compute, first = function(config), config.get("data_format") == "channels_first"
    after = activation(config.get("activation"), version)

    def run(variables: Variables, x: Tensor) -> Tensor:
        y = compute(variables, x.movedim(1, -1) if first else x)
        return after(y.movedim(-1, 1) if first else y)

    return run


def _plus_bias(y: Tensor, variables: Variables) -> Tensor:
    return y + variables["bias"] if "bias" in variables else y


def _dense(config: Mapping[str, Any]) -> Computation:
    return lambda variables, x: _plus_bias(x @ variables["kernel"], variables)


def _convolution(config: Mapping[str, Any]) -> Computation:
    groups = int(config.get("groups", 1))
    return lambda variables, x: _plus_bias(_slid(x, variables["kernel"], config, groups), variables)


def _slid(x: Tensor, kernel: Tensor, config: Mapping[str, Any], groups: int) -> Tensor:
    """Convolves N, spatial…, I with a kernel of spatial…, I / groups, O."""
    rank = kernel.ndim - 2
    strides, dilations = each_axis(config.get("strides", 1), rank), each_axis(config.get("dilation_rate", 1), rank)
    convolve: Any = getattr(functional, f"conv{rank}d")
    y = x.movedim(-1, 1)
    match config.get("padding", "valid"):
        case "same":
            y = padded(y, kernel.shape[:-2], strides, dilations)
        case "causal":
            y = functional.pad(y, (dilations[0] * (kernel.shape[0] - 1), 0))
        case _:
            pass
    weight = kernel.movedim((-1, -2), (0, 1))
    return convolve(y, weight, stride=strides, dilation=dilations, groups=groups).movedim(1, -1)


def _per_channel(x: Tensor, kernel: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Convolves each channel separately with M kernels; the kernel is spatial…, I, M."""
    *window, inputs, multiplier = kernel.shape
    return _slid(x, kernel.reshape(*window, 1, inputs * multiplier), config, inputs)


def _depthwise(config: Mapping[str, Any]) -> Computation:
    def compute(variables: Variables, x: Tensor) -> Tensor:
        return _plus_bias(_per_channel(x, variables["kernel"], config), variables)

    return compute


def _separable(config: Mapping[str, Any]) -> Computation:
    def compute(variables: Variables, x: Tensor) -> Tensor:
        y = _per_channel(x, variables["depthwise_kernel"], config)
        return _plus_bias(_slid(y, variables["pointwise_kernel"], {}, 1), variables)

    return compute


def _transposed(config: Mapping[str, Any]) -> Computation:
    if config.get("output_padding") is not None:
        raise Unknown("a transposed convolution with an output padding of its own")

    def compute(variables: Variables, x: Tensor) -> Tensor:
        kernel = variables["kernel"]  # spatial…, O, I
        rank = kernel.ndim - 2
        strides, dilations = each_axis(config.get("strides", 1), rank), each_axis(config.get("dilation_rate", 1), rank)
        convolve: Any = getattr(functional, f"conv_transpose{rank}d")
        weight = kernel.movedim((-1, -2), (0, 1))
        y = convolve(x.movedim(-1, 1), weight, stride=strides, dilation=dilations)
        reaches = [step * (side - 1) + 1 for step, side in zip(dilations, kernel.shape[:rank], strict=True)]
        y = _fitted(y, x.shape[1:-1], reaches, strides, same=config.get("padding") == "same")
        return _plus_bias(y.movedim(1, -1), variables)

    return compute


def _fitted(y: Tensor, sizes: Sequence[int], reaches: Sequence[int], strides: Sequence[int], *, same: bool) -> Tensor:
    """N, C, spatial… cropped, or padded at the end, to n·s with 'same' and (n − 1)·s + max(k, s) without."""
    for axis, (size, reach, stride) in enumerate(zip(sizes, reaches, strides, strict=True), start=2):
        wanted = size * stride if same else (size - 1) * stride + max(reach, stride)
        before = max(reach - stride, 0) // 2 if same else 0
        missing = max(before + wanted - y.shape[axis], 0)
        if missing:
            y = functional.pad(y, [0, 0] * (y.ndim - 1 - axis) + [0, missing])
        y = y.narrow(axis, before, wanted)
    return y


def _shaped(values: Tensor, x: Tensor, axes: Sequence[int]) -> Tensor:
    """Values over some axes of x, reshaped for broadcasting with x."""
    places = sorted(axis % x.ndim for axis in axes)
    return values.reshape([x.shape[axis] if axis in places else 1 for axis in range(x.ndim)])


def _axes(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def _batch_normalization(config: Mapping[str, Any]) -> Computation:
    axes, epsilon = _axes(config.get("axis", -1)), float(config.get("epsilon", 1e-3))

    def compute(variables: Variables, x: Tensor) -> Tensor:
        mean, variance = (_shaped(variables[f"moving_{name}"], x, axes) for name in ("mean", "variance"))
        return _scaled((x - mean) / (variance + epsilon).sqrt(), variables, axes)

    return compute


def _scaled(y: Tensor, variables: Variables, axes: Sequence[int]) -> Tensor:
    y = y * _shaped(variables["gamma"], y, axes) if "gamma" in variables else y
    return y + _shaped(variables["beta"], y, axes) if "beta" in variables else y


def _layer_normalization(config: Mapping[str, Any]) -> Computation:
    axes, epsilon = _axes(config.get("axis", -1)), float(config.get("epsilon", 1e-3))
    if config.get("rms_scaling"):
        raise Unknown("a LayerNormalization with rms_scaling")

    def compute(variables: Variables, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=axes, correction=0, keepdim=True)
        return _scaled((x - mean) / (variance + epsilon).sqrt(), variables, axes)

    return compute


def _group_normalization(config: Mapping[str, Any]) -> Computation:
    if config.get("axis", -1) != -1:
        raise Unknown(f"a GroupNormalization over the axis {config.get('axis')}")

    def compute(variables: Variables, x: Tensor) -> Tensor:
        groups = int(config.get("groups", 32))
        y = functional.group_norm(
            x.movedim(-1, 1), x.shape[-1] if groups == -1 else groups, eps=float(config.get("epsilon", 1e-3))
        )
        return _scaled(y.movedim(1, -1), variables, [-1])

    return compute


def _normalization(config: Mapping[str, Any]) -> Computation:
    """(x − mean) / max(√variance, 1e-7), or its inverse, with mean and variance from the config or the file."""
    axes = _axes(config.get("axis", -1)) if config.get("axis", -1) is not None else []

    def compute(variables: Variables, x: Tensor) -> Tensor:
        both = [
            numbers(config[name]) if config.get(name) is not None else variables[name] for name in ("mean", "variance")
        ]
        mean, variance = (_over(each.to(x), x, axes) for each in both)
        deviation = variance.sqrt().clamp(min=1e-7)
        return mean + x * deviation if config.get("invert") else (x - mean) / deviation

    return compute


def _over(values: Tensor, x: Tensor, axes: Sequence[int]) -> Tensor:
    return values.reshape([1] * x.ndim) if values.numel() == 1 else _shaped(values, x, axes)


def _embedding(config: Mapping[str, Any]) -> Computation:
    return lambda variables, x: variables["embeddings"][x.long()]


def _parametric_relu(config: Mapping[str, Any]) -> Computation:
    return lambda variables, x: torch.where(x > 0, x, variables["alpha"] * x)


def _layer_scale(config: Mapping[str, Any]) -> Computation:
    return lambda variables, x: x * variables["gamma"]


_LAYERS: Mapping[str, Callable[[Mapping[str, Any]], Computation]] = {
    "BatchNormalization": _batch_normalization,
    "Conv1D": _convolution,
    "Conv1DTranspose": _transposed,
    "Conv2D": _convolution,
    "Conv2DTranspose": _transposed,
    "Conv3D": _convolution,
    "Conv3DTranspose": _transposed,
    "Dense": _dense,
    "DepthwiseConv1D": _depthwise,
    "DepthwiseConv2D": _depthwise,
    "Embedding": _embedding,
    "GroupNormalization": _group_normalization,
    "LayerNormalization": _layer_normalization,
    "LayerScale": _layer_scale,
    "Normalization": _normalization,
    "PReLU": _parametric_relu,
    "SeparableConv1D": _separable,
    "SeparableConv2D": _separable,
}
