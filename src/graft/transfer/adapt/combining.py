"""Combines several donor tensors into one: separate query, key and value, or a class token and its position
embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from graft.transfer.adapt.rule import Combining, Misfit, Shape, Site


@dataclass(frozen=True, slots=True)
class Join(Combining):
    """The rows of several weights, or the values of several biases, concatenated."""

    order: tuple[str, ...] = ()
    """The word that distinguishes each donor name from the others, in the order of the rows: [query, key, value]."""

    name: ClassVar[str] = "join"
    keeps_function: ClassVar[bool] = True
    effect: ClassVar[str] = "the joined layer gives what its parts give, in this order"

    def __post_init__(self) -> None:
        if len(set(self.order)) < 2 or len(set(self.order)) < len(self.order):
            raise Misfit(f"join: expected two words or more, all different, received {list(self.order)}; "
                         "try order: [query, key, value]")  # fmt: skip

    def in_order(self, sources: Sequence[str]) -> list[str]:
        matches = {word: [source for source in sources if word in source.split(".")] for word in self.order}
        if len(sources) != len(self.order) or any(len(names) != 1 for names in matches.values()):
            raise Misfit(f"join: expected one donor name for each of {', '.join(self.order)}, "
                         f"received {', '.join(sources)}")  # fmt: skip
        return [names[0] for names in matches.values()]

    def combined(self, shapes: Sequence[Shape], site: Site) -> Shape:
        if not all(shapes) or len({shape[1:] for shape in shapes}) > 1:
            raise Misfit(f"join: expected shapes that differ in their first axis alone, received {list(shapes)}")
        return sum(shape[0] for shape in shapes), *shapes[0][1:]

    def formula_of_parts(self, site: Site) -> str:
        return f"W' = [{'; '.join(self.order)}] along the outputs"

    def combine(self, values: Sequence[Tensor], site: Site) -> Tensor:
        return torch.cat(list(values))


@dataclass(frozen=True, slots=True)
class ClassPosition(Combining):
    """A class token with its position embedding added, for a network that adds none to it."""

    positions: str = ""
    """The donor's position embeddings, by their own name or by the name to which they are mapped."""

    name: ClassVar[str] = "class_position"
    keeps_function: ClassVar[bool] = True
    effect: ClassVar[str] = "when the position embeddings take position_drop"

    def __post_init__(self) -> None:
        if not self.positions:
            raise Misfit("class_position: expected positions, the name of the donor's position embeddings; "
                         "try positions: pos_embed")  # fmt: skip

    @property
    def further(self) -> tuple[str, ...]:
        return (self.positions,)

    def combined(self, shapes: Sequence[Shape], site: Site) -> Shape:
        token, positions = shapes
        if len(token) < 2 or token[-2] != 1 or len(positions) != len(token) or positions[-1] != token[-1]:
            raise Misfit(
                f"class_position: expected one token and positions of its width, received {token}, {positions}"
            )
        return token

    def formula_of_parts(self, site: Site) -> str:
        return f"{site.leaf}' = {site.leaf} + {self.positions}[:, 0]"

    def combine(self, values: Sequence[Tensor], site: Site) -> Tensor:
        token, positions = values
        return token + positions[..., :1, :]
