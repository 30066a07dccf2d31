"""Adapters: named formulas that turn a donor's tensor into one of the target's shape."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import ClassVar

import torch
from torch import Tensor

Shape = tuple[int, ...]


class Misfit(ValueError):
    """The adapter cannot turn this donor shape into this target shape. The message says what would."""


@dataclass(frozen=True, slots=True)
class Site:
    """The target tensor of an adapted value, as far as an adapter needs to know it."""

    name: str
    shape: Shape
    transposed: bool = False
    """Whether output channels are on axis 1 (ConvTranspose)."""
    seed: int = 0
    epsilon: float | None = None
    """The epsilon of the target's norm, if this is a batch norm's running_var."""
    donor_epsilon: float | None = None
    """The epsilon of the donor's norm, if known."""

    @property
    def out_axis(self) -> int:
        return int(self.transposed and len(self.shape) > 1)

    @property
    def in_axis(self) -> int:
        return 1 - self.out_axis

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]

    def generator(self) -> torch.Generator:
        """A random generator that depends only on the seed and the tensor's name, not on earlier draws."""
        digest = hashlib.sha256(f"{self.seed}:{self.name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    @property
    def neutral(self) -> float:
        """The value at which a one-dimensional tensor has no effect: 1 for a norm's weight and variance, otherwise
        0."""
        return float(len(self.shape) == 1 and self.leaf in ("weight", "running_var"))

    def fresh(self, shape: Shape, dtype: torch.dtype) -> Tensor:
        """New values: uniform within 1/√fan_in, as in torch's Linear and Conv; one-dimensional tensors are neutral."""
        if len(self.shape) < 2:
            return torch.full(shape, self.neutral, dtype=dtype)
        bound = 1 / sqrt(max(1, prod(self.shape) // self.shape[self.out_axis]))
        values = torch.rand(shape, generator=self.generator(), dtype=torch.float32)
        return ((2 * values - 1) * bound).to(dtype)


class Adapter(ABC):
    """An adapter: a frozen dataclass whose fields are its options.

    `shape` and `formula` use metadata only, so that the plan can show what will happen. Calling the adapter computes
    the value.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = False
    """Whether the layer's function is preserved, under the condition in `effect`."""
    effect: ClassVar[str]
    """The condition under which it is exact, or what changes."""
    reads_donor: ClassVar[bool] = True
    keeps_function: ClassVar[bool] = False
    """Whether the layer computes the same as the donor's on every input, in eval mode."""

    @abstractmethod
    def shape(self, donor: Shape, site: Site) -> Shape | None:
        """The shape that this adapter produces from the donor's; None if it has nothing to do.

        Raises:
            Misfit: it cannot be applied to this pair of shapes.
        """

    @abstractmethod
    def formula(self, donor: Shape, site: Site) -> str:
        """The formula with its numbers, for the ledger."""

    @abstractmethod
    def __call__(self, value: Tensor, site: Site) -> Tensor:
        """The adapted value, in the donor's floating-point precision or a higher one."""


class Combining(Adapter):
    """An adapter that combines several donor tensors into one. Only the first adapter of a chain can be one."""

    exact: ClassVar[bool] = True

    @property
    def further(self) -> tuple[str, ...]:
        """Names of donor tensors that are read in addition to the one mapped to the target."""
        return ()

    def in_order(self, sources: Sequence[str]) -> list[str]:
        """The donor names mapped to the target, in the order in which `combine` takes their values.

        Raises:
            Misfit: there are too many or too few.
        """
        if len(sources) > 1:
            raise Misfit(f"{self.name} takes one donor tensor, received {', '.join(sources)}")
        return list(sources)

    @abstractmethod
    def combined(self, shapes: Sequence[Shape], site: Site) -> Shape:
        """The shape of the combined tensor.

        Raises:
            Misfit: the shapes do not match.
        """

    @abstractmethod
    def formula_of_parts(self, site: Site) -> str:
        """The formula, for the ledger."""

    @abstractmethod
    def combine(self, values: Sequence[Tensor], site: Site) -> Tensor:
        """The combined tensor."""

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        if donor == site.shape:
            return None
        raise Misfit(f"{self.name} makes one tensor of several, received one, {donor}")

    def formula(self, donor: Shape, site: Site) -> str:
        return self.formula_of_parts(site)

    def __call__(self, value: Tensor, site: Site) -> Tensor:
        return self.combine((value,), site)


@dataclass(frozen=True, slots=True)
class Chain:
    """Adapters in order that lead from one donor shape (or several) to one target tensor."""

    steps: tuple[Adapter, ...]
    site: Site
    formula: str

    @property
    def reads_donor(self) -> bool:
        return all(step.reads_donor for step in self.steps)

    @property
    def keeps_function(self) -> bool:
        """Whether the layer computes the same as the donor's on every input, in eval mode."""
        return all(step.keeps_function for step in self.steps)

    @property
    def effect(self) -> str:
        return "; ".join(f"{'exact' if step.exact else 'changes the function'}: {step.effect}" for step in self.steps)

    def __call__(self, *values: Tensor) -> Tensor:
        """The value for the target, in the donor's dtype. Half precision is computed in float32."""
        dtype, steps = values[0].dtype, self.steps
        read = [value.float() if dtype in (torch.float16, torch.bfloat16) else value for value in values]
        if len(read) > 1:
            first, *steps = steps
            assert isinstance(first, Combining)
            read = [first.combine(read, self.site)]
        (result,) = read
        for step in steps:
            result = step(result, self.site)
        return result.to(dtype)


def fit(adapters: tuple[Adapter, ...], donor: Shape, site: Site, *further: Shape) -> Chain | None:
    """The chain of those adapters that have something to do; None if none has.

    Args:
        further: shapes of the other donor tensors that the first adapter combines with this one.

    Raises:
        Misfit: the adapters do not lead from the donor's shape to the target's.
    """
    shape, steps, formulas, left = donor, list[Adapter](), list[str](), adapters
    if further:
        first, *left = adapters
        assert isinstance(first, Combining)
        shape = first.combined((donor, *further), site)
        steps.append(first)
        formulas.append(f"{first.name}: {first.formula_of_parts(site)}")
    for adapter in left:
        result = adapter.shape(shape, site)
        if result is not None:
            formulas.append(f"{adapter.name}: {adapter.formula(shape, site)}")
            steps.append(adapter)
            shape = result
    if shape != site.shape:
        chain = " then ".join(step.name for step in steps) or " and ".join(adapter.name for adapter in adapters)
        received = " and ".join(map(str, (donor, *further)))
        raise Misfit(f"{chain} makes {shape} of {received}, expected {site.shape}")
    return Chain(tuple(steps), site, ", then ".join(formulas)) if steps else None


def replaced(shape: Shape, axis: int, size: int) -> Shape:
    """The shape with another size along one axis."""
    return (*shape[:axis], size, *shape[axis + 1 :])
