"""Keras layers in torch's layout: the tensors of each kind, and the formulas that convert them.

Formulas: a Keras convolution kernel is spatial…, I, O and torch's is O, I, spatial…; a depthwise one is spatial…, I, M
and torch's is I·M, 1, spatial…; a dense one is I, O and torch's O, I. Behind a Flatten of an H×W×C map the rows of a
dense kernel run over H, W, C in Keras and over C, H, W in torch. (keras/src/layers, Keras 3; torch.nn)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

Shape = tuple[int, ...]


class Kind(Enum):
    """A Keras class with a counterpart in torch; the value is its name in snake case, as in files."""

    conv1d = "conv1d"
    conv2d = "conv2d"
    conv3d = "conv3d"
    conv1d_transpose = "conv1d_transpose"
    conv2d_transpose = "conv2d_transpose"
    conv3d_transpose = "conv3d_transpose"
    depthwise_conv1d = "depthwise_conv1d"
    depthwise_conv2d = "depthwise_conv2d"
    separable_conv1d = "separable_conv1d"
    separable_conv2d = "separable_conv2d"
    dense = "dense"
    batch_normalization = "batch_normalization"
    layer_normalization = "layer_normalization"
    group_normalization = "group_normalization"
    layer_scale = "layer_scale"
    p_re_lu = "p_re_lu"
    embedding = "embedding"


NORMS = (Kind.batch_normalization, Kind.layer_normalization, Kind.group_normalization)
SINGLE = {Kind.embedding: "embeddings", Kind.layer_scale: "gamma", Kind.p_re_lu: "alpha"}
"""Kinds with a single variable, and its name."""


class Mismatch(ValueError):
    """A layer's variables do not fit its kind."""


@dataclass(frozen=True, slots=True)
class TorchTensor:
    """One tensor in torch's layout."""

    suffix: str
    """The part after the layer's name: weight, bias, running_mean, depthwise.weight, …"""
    source: str | None
    """The variable from which it is computed; None for a constant."""
    shape: Shape
    formula: Callable[[Tensor], Tensor]
    rule: str = ""
    """The formula as text, if it is more than a reordering of axes."""


def variables_of(
    kind: Kind, count: int, *, scale: bool = True, center: bool = True, bias: bool | None = None
) -> list[str]:
    """The names of a layer's variables, in the order in which Keras numbers them.

    Raises:
        Mismatch: the kind never has that many.
    """
    if kind in NORMS:
        names = [name for name, has in (("gamma", scale), ("beta", center)) if has]
        names += ["moving_mean", "moving_variance"] if kind is Kind.batch_normalization else []
    elif kind in SINGLE:
        names = [SINGLE[kind]]
    else:
        separable = kind in (Kind.separable_conv1d, Kind.separable_conv2d)
        kernels = ["depthwise_kernel", "pointwise_kernel"] if separable else ["kernel"]
        has_bias = count > len(kernels) if bias is None else bias
        names = [*kernels, "bias"] if has_bias else kernels
    if len(names) != count:
        raise Mismatch(
            f"{kind.value} with {', '.join(names) or 'nothing'} has {len(names)} variables, received {count}"
        )
    return names


def convert(kind: Kind, shapes: Mapping[str, Shape], *, flattened: int | None = None) -> list[TorchTensor]:
    """The torch tensors of a layer.

    Args:
        shapes: shapes of its variables by Keras' names (kernel, bias, gamma, …).
        flattened: channels of the feature map before the Flatten that gives the layer's features; None: no Flatten.

    Raises:
        Mismatch: the shapes do not fit its kind.
    """
    if kind in NORMS:
        return _norm(kind, shapes, flattened)
    if kind in SINGLE:
        return [_single(kind, shapes)]
    if kind is Kind.dense:
        return _dense(shapes, flattened)
    rank = 2 + int(kind.value[kind.value.index("conv") + 4])
    if kind.value.startswith("separable"):
        return _separable(kind, shapes, rank)
    return _convolution(kind, shapes, rank)


def _single(kind: Kind, shapes: Mapping[str, Shape]) -> TorchTensor:
    variable = SINGLE[kind]
    if kind is not Kind.p_re_lu:
        _ranks(kind, shapes, **{variable: 2 if kind is Kind.embedding else 1})
        return TorchTensor("gamma" if kind is Kind.layer_scale else "weight", variable, shapes[variable], torch.clone)
    *places, channels = shapes.get(variable, (0,))
    if any(side != 1 for side in places):
        raise Mismatch(
            f"p_re_lu with an alpha of shape {shapes[variable]}, one for each place; torch's has one a channel"
        )
    return TorchTensor("weight", variable, (channels,), torch.flatten)


def _convolution(kind: Kind, shapes: Mapping[str, Shape], rank: int, prefix: str = "") -> list[TorchTensor]:
    _ranks(kind, shapes, kernel=rank)
    *window, inputs, last = shapes["kernel"]
    if kind.value.startswith("depthwise"):
        outputs, weight = inputs * last, (inputs * last, 1, *window)
        kernel = TorchTensor(f"{prefix}weight", "kernel", weight, lambda value: _depthwise(value, weight))
    else:  # a transposed convolution has its axes O, I here and I, O in torch, so one reordering serves both
        outputs, weight = (inputs if kind.value.endswith("transpose") else last), (last, inputs, *window)
        kernel = TorchTensor(f"{prefix}weight", "kernel", weight, _channels_first)
    return [kernel, *_bias(kind, shapes, outputs, prefix)]


def _separable(kind: Kind, shapes: Mapping[str, Shape], rank: int) -> list[TorchTensor]:
    _ranks(kind, shapes, depthwise_kernel=rank, pointwise_kernel=rank)
    *window, inputs, multiplier = shapes["depthwise_kernel"]
    *one, middle, outputs = shapes["pointwise_kernel"]
    if any(side != 1 for side in one) or middle != inputs * multiplier:
        raise Mismatch(f"{kind.value} with a depthwise kernel of {shapes['depthwise_kernel']} and a pointwise one of "
                       f"{shapes['pointwise_kernel']}")  # fmt: skip
    depthwise = (middle, 1, *window)
    return [
        TorchTensor("depthwise.weight", "depthwise_kernel", depthwise, lambda value: _depthwise(value, depthwise)),
        TorchTensor("pointwise.weight", "pointwise_kernel", (outputs, middle, *one), _channels_first),
        *_bias(kind, shapes, outputs, "pointwise."),
    ]


def _dense(shapes: Mapping[str, Shape], flattened: int | None) -> list[TorchTensor]:
    _ranks(Kind.dense, shapes, kernel=2)
    inputs, outputs = shapes["kernel"]
    weight, rule = (outputs, inputs), ""
    formula: Callable[[Tensor], Tensor] = torch.t
    if flattened is not None and flattened != inputs:
        _check_divides(Kind.dense, inputs, flattened)
        rule = f"K.reshape(HW, {flattened}, O).permute(2, 1, 0).reshape(O, -1): rows H, W, C behind a Flatten"
        formula = lambda value: value.reshape(-1, flattened, outputs).permute(2, 1, 0).reshape(weight)  # noqa: E731
    return [TorchTensor("weight", "kernel", weight, formula, rule), *_bias(Kind.dense, shapes, outputs, "")]


def _norm(kind: Kind, shapes: Mapping[str, Shape], flattened: int | None) -> list[TorchTensor]:
    names = {"weight": "gamma", "bias": "beta"}
    if kind is Kind.batch_normalization:
        names |= {"running_mean": "moving_mean", "running_var": "moving_variance"}
    size = next(iter(shapes.values()))
    if any(shape != size for shape in shapes.values()) or (kind is Kind.batch_normalization and len(size) != 1):
        raise Mismatch(f"{kind.value} with variables of shapes {', '.join(map(str, shapes.values()))}")
    tensors: list[TorchTensor] = []
    for suffix, variable in names.items():
        if variable in shapes:
            tensors.append(_vector(kind, suffix, variable, size, flattened))
        else:
            constant = float(suffix == "weight")
            rule = f"{constant:g} throughout: the Keras layer has no {variable}"
            tensors.append(TorchTensor(suffix, None, size, lambda _, value=constant: torch.full(size, value), rule))
    return tensors


def _vector(kind: Kind, suffix: str, variable: str, size: Shape, flattened: int | None) -> TorchTensor:
    if flattened is None or size == (flattened,):
        return TorchTensor(suffix, variable, size, torch.clone)
    _check_divides(kind, size[0], flattened)
    rule = f"v.reshape(HW, {flattened}).t().reshape(-1): features H, W, C behind a Flatten"
    return TorchTensor(suffix, variable, size, lambda value: value.reshape(-1, flattened).t().reshape(size), rule)


def _bias(kind: Kind, shapes: Mapping[str, Shape], outputs: int, prefix: str) -> list[TorchTensor]:
    if "bias" not in shapes:
        return []
    if shapes["bias"] != (outputs,):
        raise Mismatch(f"{kind.value} with {outputs} outputs and a bias of shape {shapes['bias']}")
    return [TorchTensor(f"{prefix}bias", "bias", (outputs,), torch.clone)]


def _ranks(kind: Kind, shapes: Mapping[str, Shape], **ranks: int) -> None:
    for variable, rank in ranks.items():
        if variable not in shapes or len(shapes[variable]) != rank:
            received = shapes.get(variable, "none")
            raise Mismatch(f"{kind.value} needs a {variable} with {rank} axes, received {received}")


def _check_divides(kind: Kind, features: int, channels: int) -> None:
    if channels < 1 or features % channels:
        raise Mismatch(f"{kind.value} with {features} features behind a Flatten of {channels} channels")


def _channels_first(value: Tensor) -> Tensor:
    """spatial…, a, b → b, a, spatial…"""
    rank = value.dim()
    return value.permute(rank - 1, rank - 2, *range(rank - 2))


def _depthwise(value: Tensor, weight: Shape) -> Tensor:
    """spatial…, I, M → I·M, 1, spatial…"""
    rank = value.dim()
    return value.permute(rank - 2, rank - 1, *range(rank - 2)).reshape(weight)
