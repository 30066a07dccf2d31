"""Position embeddings on another grid."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graft.transfer.adapt.rule import Adapter, Misfit, Shape, Site

_MOST_PREFIX_TOKENS = 8


@dataclass(frozen=True, slots=True)
class PositionResize(Adapter):
    """Learned position embeddings (…, tokens, width), interpolated to another grid; prefix tokens stay unchanged."""

    prefix_tokens: int | None = None
    """Number of leading class, distillation and register tokens. Null: the only number that leaves a square on both
    sides."""
    old_grid: tuple[int, ...] = ()
    """Rows and columns of the donor's grid. Empty: square."""
    new_grid: tuple[int, ...] = ()
    """Rows and columns of the target's grid. Empty: square."""

    name: ClassVar[str] = "position_resize"
    effect: ClassVar[str] = "positions are interpolated; prefix tokens are copied"

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        if len(donor) not in (2, 3) or len(donor) != len(site.shape):
            return None
        if donor == site.shape and self.old_grid == self.new_grid:
            return None
        self._grids(donor[-2], site.shape[-2])
        return (*donor[:-2], site.shape[-2], donor[-1])

    def _grids(self, old: int, new: int) -> tuple[int, tuple[int, int], tuple[int, int]]:
        """The number of prefix tokens, the old grid and the new grid.

        Raises:
            Misfit: Tokens do not make the grids.
        """
        choices = range(_MOST_PREFIX_TOKENS + 1) if self.prefix_tokens is None else (self.prefix_tokens,)
        fits = [
            (prefix, before, after)
            for prefix in choices
            if (before := _grid(old - prefix, self.old_grid)) and (after := _grid(new - prefix, self.new_grid))
        ]
        if len(fits) != 1:
            problem = "no grid" if not fits else f"several grids ({', '.join(str(fit) for fit in fits)})"
            raise Misfit(
                f"position_resize: {old} and {new} tokens make {problem}; "
                "try prefix_tokens (class and register tokens), and old_grid and new_grid where they are not square"
            )
        return fits[0]

    def formula(self, donor: Shape, site: Site) -> str:
        prefix, old, new = self._grids(donor[-2], site.shape[-2])
        grids = f"grid {old[0]}×{old[1]} to {new[0]}×{new[1]}"
        return f"{prefix} prefix tokens kept, {grids} by float32 bicubic with antialias"

    def __call__(self, value: Tensor, site: Site) -> Tensor:
        prefix, old, new = self._grids(value.shape[-2], site.shape[-2])
        tokens, grid = value[..., :prefix, :], value[..., prefix:, :]
        image = grid.reshape(-1, *old, value.shape[-1]).permute(0, 3, 1, 2).float()  # B, D, H, W
        image = F.interpolate(image, size=new, mode="bicubic", antialias=True, align_corners=False)
        resized = image.permute(0, 2, 3, 1).reshape(*value.shape[:-2], new[0] * new[1], value.shape[-1])
        return torch.cat([tokens, resized.to(value)], dim=-2)


@dataclass(frozen=True, slots=True)
class PositionDrop(Adapter):
    """Position embeddings without those of the prefix tokens, for a network that adds none to these."""

    tokens: int = 1
    """Number of the donor's prefix tokens."""

    name: ClassVar[str] = "position_drop"
    exact: ClassVar[bool] = True
    keeps_function: ClassVar[bool] = True
    effect: ClassVar[str] = "when the class token takes {name: class_position, positions: …} and so has its own in it"

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        if len(donor) not in (2, 3) or len(donor) != len(site.shape) or donor == site.shape:
            return None
        if not 0 < self.tokens < donor[-2]:
            raise Misfit(f"position_drop: expected tokens from 1 to {donor[-2] - 1}, received {self.tokens}")
        return (*donor[:-2], donor[-2] - self.tokens, donor[-1])

    def formula(self, donor: Shape, site: Site) -> str:
        return f"W' = W[:, {self.tokens}:]"

    def __call__(self, value: Tensor, site: Site) -> Tensor:
        return value[..., self.tokens :, :]


def has_tokens(site: Site) -> bool:
    """Whether the name shows that the tensor has tokens where layers have channels: position embeddings, tokens,
    tables."""
    return any(word in site.leaf for word in ("pos", "token", "table"))


def _grid(tokens: int, sides: tuple[int, ...]) -> tuple[int, int] | None:
    if sides:
        return (sides[0], sides[1]) if len(sides) == 2 and sides[0] * sides[1] == tokens else None
    side = isqrt(max(tokens, 0))
    return (side, side) if side and side * side == tokens else None
