"""A Keras file's own trunk as a module for images in the network's format, so that both can be compared."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from graft.transfer.donors.keras.graph import Graph
from graft.transfer.donors.keras.model import KerasModel, Read
from graft.transfer.donors.keras.preparation import Preparation


class KerasTrunk(nn.Module):
    """Maps normalised RGB images N, C, H, W to the input of the first layer that the network did not use.

    A feature map is averaged over its positions, as a network's own pooling would do.
    """

    def __init__(self, model: KerasModel, preparation: Preparation | None, *, bgr: bool, flattened: int | None) -> None:
        """
        Args:
            preparation: the model's own preprocessing, which is undone because the images have already been normalised.
            bgr: whether the model takes BGR images.
            flattened: channels of the feature map whose Flatten gives the features, in Keras' order H, W, C.
        """
        super().__init__()
        self.model, self._bgr, self._flattened = model, bgr, flattened
        self._before: tuple[Tensor, Tensor] | None = None
        if preparation is not None:
            mean, std = (torch.tensor(values, dtype=torch.float64) for values in (preparation.mean, preparation.std))
            self._before = mean * preparation.range, std * preparation.range

    def forward(self, images: Tensor) -> Tensor:
        x = images.movedim(1, -1)
        x = x.flip(-1) if self._bgr else x
        if self._before is not None:
            mean, std = self._before  # in the order of the model's own colours
            x = x * std.to(x) + mean.to(x)
        features = self.model(x)
        if self._flattened is not None:
            return features.reshape(len(features), -1, self._flattened).movedim(1, 2).flatten(1)
        return features.mean((1, 2)) if features.ndim == 4 else features


def trunk_of(
    graph: Graph,
    read: Read,
    layers: Mapping[str, Sequence[str]],
    used: Collection[str],
    preparation: Preparation | None,
    *,
    bgr: bool,
) -> KerasTrunk:
    """The model up to its own head.

    Args:
        layers: names of each layer's tensors in the donor.
        used: tensors that fill the network's trunk.

    Raises:
        Unknown: a layer on the way is one that graft cannot compute.
    """
    prepares = preparation.layers if preparation is not None else ()
    heads = [
        name
        for name in graph.layers
        if layers.get(name) and name not in prepares and not any(tensor in used for tensor in layers[name])
    ]
    flatten = graph.flatten_before(heads[0]) if heads else None
    model = KerasModel(graph, read, to=graph.parents(heads[0])[0] if heads else None)
    flattened = graph.channels_into(flatten) if flatten is not None else None
    return KerasTrunk(model, preparation, bgr=bgr, flattened=flattened)
