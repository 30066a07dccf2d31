"""The preprocessing inside a Keras model, as mean and standard deviation.

The first layers that treat all positions alike (Rescaling, Normalization, arithmetic, reordered colours) form an affine
function of a pixel's colours. It is determined by evaluating the layers for black and for one unit of each colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graft.transfer.donors.keras.activations import Unknown
from graft.transfer.donors.keras.functions import trains_alone
from graft.transfer.donors.keras.graph import Graph
from graft.transfer.donors.keras.merging import OPERATIONS
from graft.transfer.donors.keras.model import KerasModel, Read

_PREPARES = ("InputLayer", "Normalization", "Rescaling", "TFOpLambda", "SlicingOpLambda", *OPERATIONS)
_RESIZES = ("Resizing", "CenterCrop", "RandomCrop")
_WIDEST = 2.0
"""Limits of a standard deviation or a mean for images with values from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """(value · range − offset) · factor for each channel, with the image's values from 0 to 1."""

    mean: tuple[float, ...]
    """Per channel in RGB order, for values from 0 to 1."""
    std: tuple[float, ...]
    range: float
    """Largest value of an image for the model: 255 or 1."""
    turned: bool
    """Whether its last step reorders RGB to BGR."""
    layers: tuple[str, ...]
    """The layers that do the preprocessing."""
    remark: str


def preparation_of(graph: Graph, read: Read) -> Preparation | None:
    """A model's own preprocessing; None if there is none, or if it mixes channels.

    Args:
        read: returns the variables of a layer (an adapted Normalization's).
    """
    inside, exits = _first_layers(graph)
    working = [name for name in inside if graph.layers[name].class_name in _PREPARES[1:]]
    channels = _channels(graph)
    if not working or len(exits) != 1 or channels is None:
        return None
    try:
        model = KerasModel(_of_one_place(graph), read, to=exits[0]).double()
        offset, matrix = _responses(model, channels)
    except (Unknown, RuntimeError, ValueError, TypeError, LookupError):
        return None  # the layers stay what they are, and a doubt speaks of each
    turned = channels == 3 and bool(matrix[0, 0] == 0)
    factors = matrix.flip(1).diagonal() if turned else matrix.diagonal()
    rest = (matrix.flip(1) if turned else matrix) - torch.diag(factors)
    if bool(rest.any()) or not bool((factors > 0).all()):
        return None
    if turned:  # of the channels as the model sees them; here they stand as the image has them
        factors, offset = factors.flip(0), offset.flip(0)
    return prepared(offset, factors, turned=turned, layers=tuple(inside))


def prepared(offset: Tensor, factors: Tensor, *, turned: bool, layers: Sequence[str]) -> Preparation:
    """factor · x + offset, with x from 0 to 255 or from 0 to 1, whichever gives outputs of the order of 1."""
    mean, std = -offset / factors, 1 / factors
    largest = 255.0 if max(float(mean.abs().max()), float(std.max())) > _WIDEST else 1.0
    mean, std = (values / largest + 0.0 for values in (mean, std))  # + 0: no −0
    rounded = [tuple(round(float(value), 8) for value in values) for values in (mean, std)]
    text = " and ".join(
        f"{name} [{', '.join(f'{value:.6g}' for value in values)}]"
        for name, values in zip(("mean", "std"), rounded, strict=True)
    )
    also = ", and blue, green, red are turned round" if turned else ""
    return Preparation(
        mean=rounded[0], std=rounded[1], range=largest, turned=turned, layers=tuple(layers),
        remark=f"the file prepares its images itself: taken from 0 to {largest:g}, {text} of values from 0 to 1 come "
        f"to the same{also}",
    )  # fmt: skip


def _responses(model: KerasModel, channels: int) -> tuple[Tensor, Tensor]:
    """The outputs for black [C], and by how much each output [C] increases with each colour [C]."""
    images = torch.cat([torch.zeros(1, channels), torch.eye(channels)]).double()[:, None, None]  # [1 + C, 1, 1, C]
    values = model(images)[:, 0, 0]  # [1 + C, C]
    between = model(torch.full((1, 1, 1, channels), 0.5).double())[0, 0, 0]
    matrix = (values[1:] - values[0]).T
    if not torch.allclose(between, values[0] + matrix.sum(1) / 2):
        raise Unknown("a preparation that is not affine")
    return values[0], matrix


def _first_layers(graph: Graph) -> tuple[list[str], list[str]]:
    """The layers that preprocess the images, and those of them whose outputs other layers use."""
    inputs = [name for name, layer in graph.layers.items() if layer.class_name == "InputLayer" and not layer.parents]
    if len(inputs) != 1:
        return [], []
    inside: dict[str, None] = {}
    for name, layer in graph.layers.items():
        fed = graph.parents(name)
        if name == inputs[0] or (fed and all(parent in inside for parent in fed) and _prepares(layer.class_name)):
            inside[name] = None
    exits = [name for name in inside if name == graph.end or any(c not in inside for c in graph.children(name))]
    return list(inside), exits


def _prepares(class_name: str) -> bool:
    return class_name in _PREPARES or class_name in _RESIZES or trains_alone(class_name)


def _of_one_place(graph: Graph) -> Graph:
    """The model as a function of a single position. An affine function commutes with resizing."""
    layers = {
        name: replace(layer, class_name="Identity") if layer.class_name in _RESIZES else layer
        for name, layer in graph.layers.items()
    }
    return replace(graph, layers=layers)


def _channels(graph: Graph) -> int | None:
    first = next((layer for layer in graph.layers.values() if layer.class_name == "InputLayer"), None)
    shape = (first.config.get("batch_shape") or first.config.get("batch_input_shape")) if first is not None else None
    last = shape[-1] if isinstance(shape, list) and len(shape) == 4 else None
    return last if isinstance(last, int) else None


def resized(graph: Graph) -> list[str]:
    """Remarks on layers that resize images."""
    return [
        f"{name}: the donor brings its images to {layer.config.get('height')}×{layer.config.get('width')}; here "
        "data.image_size does"
        for name, layer in graph.layers.items()
        if layer.class_name in _RESIZES
    ]


def of_tensors(variables: Mapping[str, Tensor], *, published: bool, layer: str) -> Preparation | None:
    """The preprocessing of a Normalization layer, if its tensors are all that a file has of a model's first layers.

    Args:
        published: whether it belongs to an EfficientNet. Keras' own ImageNet weights store the deviation as the
            variance, and another Rescaling layer compensates for it, which a file of weights does not show.
    """
    if "mean" not in variables or "variance" not in variables:
        return None
    mean, variance = (variables[name].double().flatten() for name in ("mean", "variance"))
    deviation = variance.sqrt().clamp(min=1e-7)
    if published and variance.numel() == 3 and torch.allclose(variance, torch.tensor([0.229, 0.224, 0.225]).double()):
        deviation = variance
    return prepared(-mean / deviation, 1 / deviation, turned=False, layers=(layer,))
