"""Spatial kernels: cropping, padding, resizing, inflating to 3D, and FlexiViT's patch resize."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graft.transfer.adapt.rule import Adapter, Misfit, Shape, Site

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _kernels(donor: Shape, site: Site) -> tuple[Shape, Shape] | None:
    """The two kernel sizes, if both tensors have one and they differ."""
    if len(donor) < 3 or len(donor) != len(site.shape) or donor[2:] == site.shape[2:]:
        return None
    return donor[2:], site.shape[2:]


def _same_parity(before: Shape, after: Shape, name: str) -> None:
    if any((new - old) % 2 for old, new in zip(before, after, strict=True)):
        raise Misfit(f"{name} keeps the centre, and {before} and {after} have none in common; try kernel_resize")


@dataclass(frozen=True, slots=True)
class KernelCrop(Adapter):
    """The centre of a larger kernel."""

    name: ClassVar[str] = "kernel_crop"
    effect: ClassVar[str] = "the kernel's rim is lost; padding becomes smaller by half the difference"

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        kernels = _kernels(donor, site)
        if kernels is None:
            return None
        before, after = kernels
        if any(new > old for old, new in zip(before, after, strict=True)):
            raise Misfit(f"kernel_crop cannot make {after} of {before}; try kernel_pad or kernel_resize")
        _same_parity(before, after, self.name)
        return (*donor[:2], *after)

    def formula(self, donor: Shape, site: Site) -> str:
        cuts = ", ".join(
            f"{(old - new) // 2}:{(old + new) // 2}" for old, new in zip(donor[2:], site.shape[2:], strict=True)
        )
        return f"W' = W[:, :, {cuts}]"

    def __call__(self, value: Tensor, site: Site) -> Tensor:
        for axis, size in enumerate(site.shape[2:], start=2):
            value = value.narrow(axis, (value.shape[axis] - size) // 2, size)
        return value


@dataclass(frozen=True, slots=True)
class KernelPad(Adapter):
    """A smaller kernel surrounded by zeros."""

    name: ClassVar[str] = "kernel_pad"
    exact: ClassVar[bool] = True
    effect: ClassVar[str] = "when the layer's padding grows by half the difference (times its dilation)"

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        kernels = _kernels(donor, site)
        if kernels is None:
            return None
        before, after = kernels
        if any(new < old for old, new in zip(before, after, strict=True)):
            raise Misfit(f"kernel_pad cannot make {after} of {before}; try kernel_crop or kernel_resize")
        _same_parity(before, after, self.name)
        return (*donor[:2], *after)

    def formula(self, donor: Shape, site: Site) -> str:
        rims = [(new - old) // 2 for old, new in zip(donor[2:], site.shape[2:], strict=True)]
        return f"W' = W with {'×'.join(map(str, rims))} zeros around each kernel"

    def __call__(self, value: Tensor, site: Site) -> Tensor:
        pads: list[int] = []
        for axis in range(len(site.shape) - 1, 1, -1):  # F.pad begins at the last axis
            rim = (site.shape[axis] - value.shape[axis]) // 2
            pads += [rim, rim]
        return F.pad(value, pads)


@dataclass(frozen=True, slots=True)
class KernelResize(Adapter):
    """The kernel, interpolated linearly to another size like an image."""

    keep_sum: bool = False
    """Multiply by the old area divided by the new one, which approximately preserves the output for a constant
    input."""

    name: ClassVar[str] = "kernel_resize"
    effect: ClassVar[str] = "the kernel is interpolated; its sum grows with its area unless keep_sum"

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        kernels = _kernels(donor, site)
        if kernels is None:
            return None
        if len(kernels[0]) not in _LINEAR:
            raise Misfit(f"kernel_resize knows one to three spatial axes, received {donor}")
        return (*donor[:2], *kernels[1])

    def formula(self, donor: Shape, site: Site) -> str:
        scale = " · old area / new area" if self.keep_sum else ""
        return f"W' = {_LINEAR[len(donor) - 2]} resize of W from {donor[2:]} to {site.shape[2:]}{scale}"

    def __call__(self, value: Tensor, site: Site) -> Tensor:
        size, before = site.shape[2:], value.shape[2:]
        result = F.interpolate(value, size=size, mode=_LINEAR[len(size)], align_corners=False)
        return result * (before.numel() / torch.Size(size).numel()) if self.keep_sum else result


@dataclass(frozen=True, slots=True)
class Inflate(Adapter):
    """A 2D kernel repeated over time (I3D, Carreira & Zisserman 2017)."""

    name: ClassVar[str] = "inflate"
    exact: ClassVar[bool] = True
    effect: ClassVar[str] = "on a clip of one repeated frame, away from the padding in time"

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        if len(donor) == len(site.shape):
            return None
        if len(donor) != 4 or len(site.shape) != 5:
            raise Misfit(f"inflate expects O,I,kH,kW into O,I,T,kH,kW, received {donor} into {site.shape}")
        return (*donor[:2], site.shape[2], *donor[2:])

    def formula(self, donor: Shape, site: Site) -> str:
        return f"W'[:, :, t] = W / {site.shape[2]}, t < {site.shape[2]}"

    def __call__(self, value: Tensor, site: Site) -> Tensor:
        time = site.shape[2]
        return value.unsqueeze(2).expand(-1, -1, time, -1, -1) / time


@dataclass(frozen=True, slots=True)
class PatchResize(Adapter):
    """A patch embedding for another patch size, by the pseudo-inverse of the resize (FlexiViT, Beyer et al. 2023)."""

    interpolation: str = "bicubic"
    """Interpolation of images, and therefore of patches: bicubic or bilinear."""

    name: ClassVar[str] = "patch_resize"
    exact: ClassVar[bool] = True
    effect: ClassVar[str] = "when growing, on patches that are the donor's resized; least squares when shrinking"

    def __post_init__(self) -> None:
        if self.interpolation not in ("bicubic", "bilinear"):
            raise Misfit(f"patch_resize: expected interpolation=bicubic or bilinear, received {self.interpolation!r}")

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        kernels = _kernels(donor, site)
        if kernels is None:
            return None
        if len(donor) != 4:
            raise Misfit(f"patch_resize expects O,I,kH,kW, received {donor}")
        return (*donor[:2], *kernels[1])

    def formula(self, donor: Shape, site: Site) -> str:
        return f"w' = (Rᵀ)⁺ vec(w), R the {self.interpolation} resize from {donor[2:]} to {site.shape[2:]}"

    def __call__(self, value: Tensor, site: Site) -> Tensor:
        old, new = value.shape[2:], torch.Size(site.shape[2:])
        basis = torch.eye(old.numel(), dtype=torch.float64).view(-1, 1, *old)
        resized = F.interpolate(basis, size=new, mode=self.interpolation, antialias=True, align_corners=False)
        inverse = torch.linalg.pinv(
            resized.flatten(1)
        )  # rows of `resized` are R's columns, so this is (Rᵀ)⁺: new × old
        vectors = value.flatten(2).cpu().double()  # O, I, old
        return (vectors @ inverse.T).view(*value.shape[:2], *new).to(value)
