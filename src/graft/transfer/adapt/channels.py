"""Fewer or more output and input channels. Weights are O,I,… (I,O,… for ConvTranspose); biases and norms are O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from graft.transfer.adapt.rule import Adapter, Misfit, Shape, Site, replaced

_STACKED = re.compile(r"(in_proj_(weight|bias)|qkv\.(weight|bias)|(weight|bias)_[ih]h_l\d+(_reverse)?)$")


@dataclass(frozen=True, slots=True)
class _Output(Adapter):
    """Acts on the output axis, also of biases and norms."""

    parts: int = 1
    """Number of equal parts stacked along the output axis (3 for q, k, v; 4 for an LSTM's gates)."""

    def _sizes(self, donor: Shape, site: Site) -> tuple[int, int] | None:
        """Output channels of donor and target in one part; None if they are equal."""
        if len(donor) <= site.out_axis or not site.shape:
            return None
        before, after = donor[site.out_axis], site.shape[site.out_axis]
        if before == after:
            return None
        if self.parts == 1 and _STACKED.search(site.name):
            raise Misfit(
                f"{site.name} stacks several matrices along its outputs; try parts: 3 (q, k, v; GRU) or 4 (LSTM)"
            )
        if before % self.parts or after % self.parts:
            raise Misfit(f"{before} and {after} output channels are not multiples of parts={self.parts}")
        return before // self.parts, after // self.parts


@dataclass(frozen=True, slots=True)
class OutputTruncate(_Output):
    """The first n output channels."""

    name: ClassVar[str] = "output_truncate"
    effect: ClassVar[str] = (
        "the kept channels answer as before, the others are gone; whatever consumes them takes input_select"
    )

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        sizes = self._sizes(donor, site)
        if sizes is None:
            return None
        if sizes[1] > sizes[0]:
            raise Misfit(f"output_truncate cannot make {sizes[1]} output channels of {sizes[0]}; try output_pad")
        return replaced(donor, site.out_axis, site.shape[site.out_axis])

    def formula(self, donor: Shape, site: Site) -> str:
        count = site.shape[site.out_axis] // self.parts
        return f"W' = W[:{count}]" + (f" in each of {self.parts} parts" if self.parts > 1 else "")

    def __call__(self, value: Tensor, site: Site) -> Tensor:
        parts = value.unflatten(site.out_axis, (self.parts, -1))
        return parts.narrow(site.out_axis + 1, 0, site.shape[site.out_axis] // self.parts).flatten(
            site.out_axis, site.out_axis + 1
        )


@dataclass(frozen=True, slots=True)
class OutputPad(_Output):
    """More output channels: zeros, fresh values, or copies of the first ones (Net2Net)."""

    fill: str = "zeros"
    """zeros, fresh or duplicate."""

    name: ClassVar[str] = "output_pad"
    exact: ClassVar[bool] = True
    effect: ClassVar[str] = (
        "for the donor's channels; for what follows, when its consumers take input_zero (any fill) "
        "or input_repeat (fill=duplicate)"
    )

    def __post_init__(self) -> None:
        if self.fill not in ("zeros", "fresh", "duplicate"):
            raise Misfit(f"output_pad: expected fill=zeros, fresh or duplicate, received {self.fill!r}")

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        sizes = self._sizes(donor, site)
        if sizes is None:
            return None
        if sizes[1] < sizes[0]:
            raise Misfit(f"output_pad cannot make {sizes[1]} output channels of {sizes[0]}; try output_truncate")
        return replaced(donor, site.out_axis, site.shape[site.out_axis])

    def formula(self, donor: Shape, site: Site) -> str:
        before = donor[site.out_axis] // self.parts
        each = f" in each of {self.parts} parts" if self.parts > 1 else ""
        if self.fill == "duplicate":
            return f"W'[n] = W[n mod {before}]{each}"
        filling = "fresh" if self.fill == "fresh" else "0"
        if len(site.shape) == 1 and (self.fill == "fresh" or site.leaf == "running_var"):
            filling = f"{site.neutral:g}"
        return f"W'[:{before}] = W, W'[{before}:] = {filling}{each}"

    def __call__(self, value: Tensor, site: Site) -> Tensor:
        axis, size = site.out_axis, site.shape[site.out_axis] // self.parts
        parts = value.unflatten(axis, (self.parts, -1))
        before = parts.shape[axis + 1]
        if self.fill == "duplicate":
            wide = parts.index_select(axis + 1, torch.arange(size, device=value.device) % before)
        else:
            wide = self._filling(value, site).unflatten(axis, (self.parts, -1))
            wide.narrow(axis + 1, 0, before).copy_(parts)
        return wide.flatten(axis, axis + 1)

    def _filling(self, value: Tensor, site: Site) -> Tensor:
        shape = replaced(tuple(value.shape), site.out_axis, site.shape[site.out_axis])
        if self.fill == "fresh":
            return site.fresh(shape, value.dtype).to(value.device)
        constant = 1.0 if site.leaf == "running_var" else 0.0  # a variance of 0 would divide by √eps
        return torch.full(shape, constant, dtype=value.dtype, device=value.device)


@dataclass(frozen=True, slots=True)
class _Input(Adapter):
    """Acts on the input axis. Biases and norms have none and stay unchanged.

    After a Flatten of C×H×W, each channel has H·W consecutive columns. Indexing columns modulo I·H·W is then the same
    as indexing channels modulo I, so the formulas also hold for such dense layers. Only the selection of channels needs
    to know H·W.
    """

    fewer: ClassVar[bool]
    other: ClassVar[str]

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        if len(donor) < 2 or len(site.shape) < 2 or donor[site.in_axis] == site.shape[site.in_axis]:
            return None
        before, after = donor[site.in_axis], site.shape[site.in_axis]
        if (after < before) != self.fewer:
            raise Misfit(f"{self.name} cannot make {after} input channels of {before}; try {self.other}")
        return replaced(donor, site.in_axis, after)

    def formula(self, donor: Shape, site: Site) -> str:
        return self._formula(donor[site.in_axis], site.shape[site.in_axis])

    def __call__(self, value: Tensor, site: Site) -> Tensor:
        axis = site.in_axis
        return self._mix(value.transpose(0, axis), site.shape[axis]).transpose(0, axis)

    def _formula(self, before: int, after: int) -> str:
        raise AssertionError(f"{self.name} has no formula")

    def _mix(self, value: Tensor, size: int) -> Tensor:
        """From I,… to `size`,…"""
        raise AssertionError(f"{self.name} has no rule")


def _folded(value: Tensor, size: int) -> Tensor:
    """The sum of the input channels i with i mod size = n, for each n."""
    result = value.new_zeros((size, *value.shape[1:]))
    return result.index_add_(0, torch.arange(value.shape[0], device=value.device) % size, value)


@dataclass(frozen=True, slots=True)
class InputSum(_Input):
    """Fewer input channels, each the sum of those that it replaces."""

    name: ClassVar[str] = "input_sum"
    exact: ClassVar[bool] = True
    effect: ClassVar[str] = (
        "when the donor's input channels repeated the target's (grey three times); mean and std must follow"
    )
    fewer: ClassVar[bool] = True
    other: ClassVar[str] = "input_repeat or input_zero"

    def _formula(self, before: int, after: int) -> str:
        return (
            f"W'[:, 0] = Σ W[:, i], i < {before}"
            if after == 1
            else f"W'[:, n] = Σ W[:, i], i mod {after} = n, i < {before}"
        )

    def _mix(self, value: Tensor, size: int) -> Tensor:
        return _folded(value, size)


@dataclass(frozen=True, slots=True)
class InputMean(_Input):
    """Fewer input channels, each the mean of those that it replaces."""

    name: ClassVar[str] = "input_mean"
    effect: ClassVar[str] = "the answer is that of input_sum over the number of channels averaged"
    fewer: ClassVar[bool] = True
    other: ClassVar[str] = "input_repeat or input_zero"

    def _formula(self, before: int, after: int) -> str:
        return f"W'[:, 0] = mean of W[:, :{before}]" if after == 1 else f"W'[:, n] = mean of W[:, i], i mod {after} = n"

    def _mix(self, value: Tensor, size: int) -> Tensor:
        shape = (-1, *[1] * (value.dim() - 1))
        return _folded(value, size) / _repeats(value.shape[0], size).to(value).view(shape)


def _repeats(longer: int, shorter: int) -> Tensor:
    """How often each of `shorter` occurs in n mod shorter for n < longer."""
    return torch.bincount(torch.arange(longer) % shorter, minlength=shorter)


@dataclass(frozen=True, slots=True)
class InputRepeat(_Input):
    """More input channels, each a copy divided by the number of copies."""

    name: ClassVar[str] = "input_repeat"
    exact: ClassVar[bool] = True
    effect: ClassVar[str] = "when new input n carries what input n mod I carried (as after output_pad fill=duplicate)"
    fewer: ClassVar[bool] = False
    other: ClassVar[str] = "input_sum, input_mean or input_select"

    def _formula(self, before: int, after: int) -> str:
        return f"W'[:, n] = W[:, n mod {before}] / count(n mod {before}), n < {after}"

    def _mix(self, value: Tensor, size: int) -> Tensor:
        index = torch.arange(size) % value.shape[0]
        count = _repeats(size, value.shape[0])[index].to(value).view(-1, *[1] * (value.dim() - 1))
        return value[index.to(value.device)] / count


@dataclass(frozen=True, slots=True)
class InputZero(_Input):
    """More input channels, with zero weights for the new ones."""

    name: ClassVar[str] = "input_zero"
    exact: ClassVar[bool] = True
    effect: ClassVar[str] = "whatever the added inputs carry"
    fewer: ClassVar[bool] = False
    other: ClassVar[str] = "input_sum, input_mean or input_select"

    def _formula(self, before: int, after: int) -> str:
        return f"W'[:, :{before}] = W, W'[:, {before}:{after}] = 0"

    def _mix(self, value: Tensor, size: int) -> Tensor:
        return torch.cat([value, value.new_zeros((size - value.shape[0], *value.shape[1:]))])


@dataclass(frozen=True, slots=True)
class InputSelect(_Input):
    """Input channels by number: fewer of them, or another order (BGR to RGB)."""

    channels: tuple[int, ...] = ()
    """The donor's channel for each target channel. Empty: the first ones."""
    block: int = 1
    """Number of columns per channel (H·W for a dense layer after a Flatten of C×H×W); used with `channels`."""

    name: ClassVar[str] = "input_select"
    effect: ClassVar[str] = "exact only if the channels left out carried 0"
    fewer: ClassVar[bool] = True
    other: ClassVar[str] = "input_repeat or input_zero"

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        if not self.channels or len(donor) < 2:
            return _Input.shape(self, donor, site)
        before, after = donor[site.in_axis] // self.block, site.shape[site.in_axis] // self.block
        if donor[site.in_axis] % self.block or site.shape[site.in_axis] % self.block:
            columns = f"{donor[site.in_axis]} and {site.shape[site.in_axis]} input columns"
            raise Misfit(f"input_select: {columns} are not multiples of block={self.block}")
        if len(self.channels) != after or not all(0 <= channel < before for channel in self.channels):
            raise Misfit(
                f"input_select: expected {after} channels from 0 to {before - 1}, received {list(self.channels)}"
            )
        return replaced(donor, site.in_axis, site.shape[site.in_axis])

    def _formula(self, before: int, after: int) -> str:
        if not self.channels:
            return f"W' = W[:, :{after}]"
        runs = f" in runs of {self.block} columns" if self.block > 1 else ""
        return f"W' = W[:, {list(self.channels)}]{runs}"

    def _mix(self, value: Tensor, size: int) -> Tensor:
        if not self.channels:
            return value[:size]
        columns = torch.arange(value.shape[0], device=value.device).view(-1, self.block)
        return value[columns[list(self.channels)].flatten()]
