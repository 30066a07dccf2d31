"""Tensors with the same values in the same order, but other axes of length 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graft.transfer.adapt.rule import Adapter, Misfit, Shape, Site


@dataclass(frozen=True, slots=True)
class Squeeze(Adapter):
    """A dense kernel [O, I] as a 1×1 convolution [O, I, 1, 1] or back, a scale [C] as [C, 1, 1]."""

    name: ClassVar[str] = "squeeze"
    exact: ClassVar[bool] = True
    keeps_function: ClassVar[bool] = True
    effect: ClassVar[str] = "the same values in the same order"

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        if donor == site.shape:
            return None
        if _long(donor) != _long(site.shape):
            raise Misfit(f"{self.name} adds and removes axes of length 1, and {donor} is not {site.shape} without them")
        return site.shape

    def formula(self, donor: Shape, site: Site) -> str:
        return f"W' = W.reshape{site.shape}"

    def __call__(self, value: Tensor, site: Site) -> Tensor:
        return value.reshape(site.shape)


def _long(shape: Shape) -> Shape:
    return tuple(side for side in shape if side != 1)
