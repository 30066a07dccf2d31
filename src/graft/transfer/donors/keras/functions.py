"""Keras' layers without tensors in torch, on values in Keras' own layout (N, spatial…, C).

Every difference between Keras and the torch layer of the same name is implemented here once, so that a model can be
computed and compared with another network. Layers that are only active in training return their input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graft.transfer.donors.keras.activations import LAYERS as ACTIVATION_LAYERS
from graft.transfer.donors.keras.activations import NAMES, Unknown, activation
from graft.transfer.donors.keras.graph import Layer, snake_case
from graft.transfer.donors.keras.merging import MERGES, OPERATIONS
from graft.transfer.donors.keras.windows import pairs, pooled

Function = Callable[..., Tensor]

_TRAINING_ALONE = re.compile(
    r"(Alpha|Gaussian|Spatial[123]D)?Dropout|SpatialDropout[123]D|GaussianNoise|ActivityRegularization|Identity|StochasticDepth"
    r"|Random(Brightness|ColorDegeneration|ColorJitter|Contrast|ElasticTransform|Erasing|Flip|GaussianBlur|Grayscale|Hue"
    r"|Invert|Perspective|Posterization|Rotation|Saturation|Sharpness|Shear|Translation|Zoom)|AugMix|CutMix|MixUp|RandAugment"
)
"""Classes that return their input in eval mode. RandomCrop is not one of them, because it then crops the centre."""
_POOLING = re.compile(r"(Max|Average)Pooling[123]D|(Max|Avg)Pool[123]D")
_GLOBAL = re.compile(r"Global(Max|Average|Avg)Pool(ing)?[123]D")
_ADAPTIVE = re.compile(r"Adaptive(Max|Average)Pooling[123]D")


def trains_alone(class_name: str) -> bool:
    """Whether a layer of this class is only active in training."""
    return _TRAINING_ALONE.fullmatch(class_name) is not None


def function_of(layer: Layer, version: int = 3) -> Function:
    """The function of a layer without tensors, in eval mode.

    Args:
        version: version of Keras that wrote the file.

    Raises:
        Unknown: graft does not implement its class or its settings.
    """
    name, config = layer.class_name, layer.config
    if trains_alone(name):
        return lambda x: x
    if name == "Activation":
        return activation(config.get("activation"), version)
    if name in ACTIVATION_LAYERS:
        return ACTIVATION_LAYERS[name](config)
    if name in MERGES:
        return MERGES[name](config)
    if name in OPERATIONS or name in ("TFOpLambda", "SlicingOpLambda"):
        return _operation(layer)
    channels_first = config.get("data_format") == "channels_first"
    compute = _spatial(name, config)
    if compute is None:
        raise Unknown(f"a {name[:40]}")
    return _moved(compute) if channels_first else compute


def _moved(compute: Function) -> Function:
    """The same function on values with channels first."""

    def moved(x: Tensor) -> Tensor:
        y = compute(x.movedim(1, -1))
        return y.movedim(-1, 1) if y.ndim > 2 else y

    return moved


def _operation(layer: Layer) -> Function:
    """An operator or function in a functional model: Keras 3's own classes, or Keras 2's by the function's name."""
    name = layer.class_name
    if name in ("TFOpLambda", "SlicingOpLambda"):
        name = str(layer.config.get("function", "")).rpartition(".")[2]
    operation = OPERATIONS.get(name) or OPERATIONS.get(snake_case(name))
    if operation is not None:
        return operation(layer.config)
    if snake_case(name) in NAMES:
        return NAMES[snake_case(name)]
    raise Unknown(f"the operation {name[:40]}")


def _spatial(name: str, config: Mapping[str, Any]) -> Function | None:
    """A layer that works on the positions of a feature map rather than on its channels."""
    if _POOLING.fullmatch(name):
        return pooled(name, config)
    if _GLOBAL.fullmatch(name):
        return _global(name, keeps=bool(config.get("keepdims")))
    if _ADAPTIVE.fullmatch(name):
        return _adaptive(name, config)
    function = _SHAPING.get(re.sub(r"[123]D$", "", name))
    if function is None:
        return NAMES.get(snake_case(name))  # an activation as an operation
    return function(config)


def _global(name: str, *, keeps: bool) -> Function:
    if "Max" in name:
        return lambda x: x.amax(tuple(range(1, x.ndim - 1)), keepdim=keeps)
    return lambda x: x.mean(tuple(range(1, x.ndim - 1)), keepdim=keeps)


def _adaptive(name: str, config: Mapping[str, Any]) -> Function:
    size, rank = config.get("output_size"), int(name[-2])
    pool: Any = getattr(functional, f"adaptive_{'max' if 'Max' in name else 'avg'}_pool{rank}d")
    return lambda x: pool(x.movedim(-1, 1), size).movedim(1, -1)


def _zero_padding(config: Mapping[str, Any]) -> Function:
    def compute(x: Tensor) -> Tensor:
        sides = pairs(config.get("padding"), x.ndim - 2)
        return functional.pad(x, [0, 0, *(side for pair in reversed(sides) for side in pair)])

    return compute


def _cropping(config: Mapping[str, Any]) -> Function:
    def compute(x: Tensor) -> Tensor:
        for axis, (before, after) in enumerate(pairs(config.get("cropping"), x.ndim - 2), start=1):
            x = x.narrow(axis, before, x.shape[axis] - before - after)
        return x

    return compute


def _up_sampling(config: Mapping[str, Any]) -> Function:
    size, interpolation = config.get("size", 2), str(config.get("interpolation", "nearest"))

    def compute(x: Tensor) -> Tensor:
        rank = x.ndim - 2
        factors: Sequence[int] = [size] * rank if isinstance(size, int) else size
        if interpolation == "nearest":
            for axis, factor in enumerate(factors, start=1):
                x = x.repeat_interleave(factor, axis)
            return x
        return _resized(x, [side * factor for side, factor in zip(x.shape[1:-1], factors, strict=True)], interpolation)

    if interpolation not in ("nearest", "bilinear"):
        raise Unknown(
            f"an UpSampling with the interpolation {interpolation[:20]!r}, which differs between Keras' backends"
        )
    return compute


def _resizing(config: Mapping[str, Any]) -> Function:
    interpolation = str(config.get("interpolation", "bilinear"))
    odd = [name for name in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias") if config.get(name)]
    if odd or interpolation != "bilinear":
        what = odd[0] if odd else f"the interpolation {interpolation[:20]!r}, which differs between Keras' backends"
        raise Unknown(f"a Resizing with {what}")
    return lambda x: _resized(x, [int(config["height"]), int(config["width"])], interpolation)


def _resized(x: Tensor, size: Sequence[int], mode: str) -> Tensor:
    return functional.interpolate(x.movedim(-1, 1), size=list(size), mode=mode, align_corners=False).movedim(1, -1)


def _rescaling(config: Mapping[str, Any]) -> Function:
    scale, offset = numbers(config.get("scale", 1.0)), numbers(config.get("offset", 0.0))
    return lambda x: x * scale.to(x) + offset.to(x)


def numbers(value: Any) -> Tensor:
    """A number or an array in Keras' serialised form."""
    while isinstance(value, Mapping):
        value = value["config"] if "config" in value else value["value"]
    return torch.tensor(value, dtype=torch.float64)


def _center_crop(config: Mapping[str, Any]) -> Function:
    height, width = int(config["height"]), int(config["width"])

    def compute(x: Tensor) -> Tensor:
        top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
        if top < 0 or left < 0:
            raise Unknown("a CenterCrop larger than its image, which Keras resizes")
        return x[:, top : top + height, left : left + width]

    return compute


def _masking(config: Mapping[str, Any]) -> Function:
    value = float(config.get("mask_value", 0.0))
    return lambda x: x * (x != value).any(-1, keepdim=True)


def _unit_normalization(config: Mapping[str, Any]) -> Function:
    axis = config.get("axis", -1)
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    return lambda x: x * torch.rsqrt((x * x).sum(axes, keepdim=True).clamp(min=1e-12))


def _reshape(config: Mapping[str, Any]) -> Function:
    return lambda x: x.reshape(x.shape[0], *config["target_shape"])


def _permute(config: Mapping[str, Any]) -> Function:
    return lambda x: x.permute(0, *config["dims"])


def _repeat_vector(config: Mapping[str, Any]) -> Function:
    return lambda x: x[:, None].expand(-1, int(config["n"]), -1)


_SHAPING: Mapping[str, Callable[[Mapping[str, Any]], Function]] = {
    "CenterCrop": _center_crop,
    "Cropping": _cropping,
    "Flatten": lambda config: lambda x: x.flatten(1),
    "Masking": _masking,
    "Permute": _permute,
    "RepeatVector": _repeat_vector,
    "Rescaling": _rescaling,
    "Reshape": _reshape,
    "Resizing": _resizing,
    "UnitNormalization": _unit_normalization,
    "UpSampling": _up_sampling,
    "ZeroPadding": _zero_padding,
}
