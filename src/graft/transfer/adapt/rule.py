"""What an adapter is: a formula with a name that turns a donor's tensor into one of the target's shape."""

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
    """The adapter cannot turn this donor shape into this target shape; the text says what would."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where an adapted value goes: all that an adapter knows of the target tensor."""

    name: str
    shape: Shape
    transposed: bool = False
    """Output channels on axis 1 (ConvTranspose)."""
    seed: int = 0
    epsilon: float | None = None
    """What the target's norm adds to its variance, where this is a batch norm's running_var."""
    donor_epsilon: float | None = None
    """What the donor's adds, where it is known."""

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
        """Random numbers that depend on the seed and this tensor's name alone, not on what was drawn before."""
        digest = hashlib.sha256(f"{self.seed}:{self.name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    @property
    def neutral(self) -> float:
        """What a one-dimensional tensor holds when it changes nothing: 1 for a norm's weight and variance, else 0."""
        return float(len(self.shape) == 1 and self.leaf in ("weight", "running_var"))

    def fresh(self, shape: Shape, dtype: torch.dtype) -> Tensor:
        """New values: uniform within 1/√fan_in, as torch's Linear and Conv start; one-dimensional ones are neutral."""
        if len(self.shape) < 2:
            return torch.full(shape, self.neutral, dtype=dtype)
        bound = 1 / sqrt(max(1, prod(self.shape) // self.shape[self.out_axis]))
        values = torch.rand(shape, generator=self.generator(), dtype=torch.float32)
        return ((2 * values - 1) * bound).to(dtype)


class Adapter(ABC):
    """A frozen dataclass whose fields are its options.

    `shape` and `formula` work on metadata, so that the plan can say what will happen; calling it makes the value.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = False
    """Whether the layer's function is preserved, under the condition in `effect`."""
    effect: ClassVar[str]
    """The condition under which it is exact, or what changes."""
    reads_donor: ClassVar[bool] = True
    keeps_function: ClassVar[bool] = False
    """Whether the layer computes what the donor's does on every input, in evaluation."""

    @abstractmethod
    def shape(self, donor: Shape, site: Site) -> Shape | None:
        """The shape that this adapter makes of a donor's; None where there is nothing for it to do.

        Raises:
            Misfit: It cannot serve this pair of shapes.
        """

    @abstractmethod
    def formula(self, donor: Shape, site: Site) -> str:
        """The formula with its numbers, for the ledger."""

    @abstractmethod
    def __call__(self, value: Tensor, site: Site) -> Tensor:
        """The adapted value, floating point of the donor's precision or better."""


class Combining(Adapter):
    """An adapter that makes one tensor of several of the donor's; only the first of a chain can be one."""

    exact: ClassVar[bool] = True

    @property
    def further(self) -> tuple[str, ...]:
        """Names of donor tensors that are read beside the one that lands on the target."""
        return ()

    def in_order(self, sources: Sequence[str]) -> list[str]:
        """The donor names that land on the target, in the order in which `combine` takes their values.

        Raises:
            Misfit: They are too many or too few.
        """
        if len(sources) > 1:
            raise Misfit(f"{self.name} takes one donor tensor, received {', '.join(sources)}")
        return list(sources)

    @abstractmethod
    def combined(self, shapes: Sequence[Shape], site: Site) -> Shape:
        """The shape of what `combine` makes.

        Raises:
            Misfit: Shapes that do not go together.
        """

    @abstractmethod
    def formula_of_parts(self, site: Site) -> str:
        """The formula, for the ledger."""

    @abstractmethod
    def combine(self, values: Sequence[Tensor], site: Site) -> Tensor:
        """The one tensor."""

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
    """Adapters in order, known to lead from one donor shape (or several) to one site."""

    steps: tuple[Adapter, ...]
    site: Site
    formula: str

    @property
    def reads_donor(self) -> bool:
        return all(step.reads_donor for step in self.steps)

    @property
    def keeps_function(self) -> bool:
        """Whether the layer computes what the donor's does on every input, in evaluation."""
        return all(step.keeps_function for step in self.steps)

    @property
    def effect(self) -> str:
        return "; ".join(f"{'exact' if step.exact else 'changes the function'}: {step.effect}" for step in self.steps)

    def __call__(self, *values: Tensor) -> Tensor:
        """The value for the site, in the donor's dtype; half precision is computed in float32."""
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
    """The chain of those adapters that have something to do here; None when none has.

    Args:
        further: Shapes of the other donor tensors that the first adapter combines with this one.

    Raises:
        Misfit: They do not lead from the donor's shape to the site's.
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
    return (*shape[:axis], size, *shape[axis + 1 :])
