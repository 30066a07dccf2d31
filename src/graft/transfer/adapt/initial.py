"""Re-initialisers for tensors that are too different to be adapted. They do not read the donor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import init

from graft.transfer.adapt.rule import Adapter, Misfit, Shape, Site


@dataclass(frozen=True, slots=True)
class _Initial(Adapter):
    reads_donor: ClassVar[bool] = False
    effect: ClassVar[str] = "values are new"

    def shape(self, donor: Shape, site: Site) -> Shape | None:
        return site.shape

    def __call__(self, value: Tensor, site: Site) -> Tensor:
        """New values with the dtype and device of `value`."""
        result = torch.empty(site.shape, dtype=torch.float32)
        if not site.shape or not value.is_floating_point():
            result.zero_()
        elif len(site.shape) == 1 and self._by_fan():
            result.fill_(site.neutral)
        else:
            self._fill(result, site.generator())
        return result.to(value)

    def formula(self, donor: Shape, site: Site) -> str:
        if len(site.shape) < 2 and self._by_fan():
            return f"{site.neutral:g} (one-dimensional)"
        return self._formula()

    def _by_fan(self) -> bool:
        """Whether the initialiser is meant for matrices; biases are then 0 and norm weights 1."""
        return True

    def _formula(self) -> str:
        raise AssertionError(f"{self.name} has no formula")

    def _fill(self, result: Tensor, generator: torch.Generator) -> None:
        raise AssertionError(f"{self.name} has no rule")


@dataclass(frozen=True, slots=True)
class _Kaiming(_Initial):
    mode: str = "fan_out"
    """fan_in or fan_out."""
    nonlinearity: str = "relu"

    def __post_init__(self) -> None:
        if self.mode not in ("fan_in", "fan_out"):
            raise Misfit(f"{self.name}: expected mode=fan_in or fan_out, received {self.mode!r}")
        try:
            init.calculate_gain(self.nonlinearity)  # pyright: ignore[reportArgumentType]
        except ValueError as error:
            raise Misfit(f"{self.name}: {error}") from error


@dataclass(frozen=True, slots=True)
class KaimingNormal(_Kaiming):
    name: ClassVar[str] = "init:kaiming_normal"

    def _formula(self) -> str:
        return f"N(0, gain²/{self.mode}), gain of {self.nonlinearity}"

    def _fill(self, result: Tensor, generator: torch.Generator) -> None:
        init.kaiming_normal_(result, mode=self.mode, nonlinearity=self.nonlinearity, generator=generator)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, slots=True)
class KaimingUniform(_Kaiming):
    name: ClassVar[str] = "init:kaiming_uniform"

    def _formula(self) -> str:
        return f"U(±gain·√(3/{self.mode})), gain of {self.nonlinearity}"

    def _fill(self, result: Tensor, generator: torch.Generator) -> None:
        init.kaiming_uniform_(result, mode=self.mode, nonlinearity=self.nonlinearity, generator=generator)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, slots=True)
class XavierNormal(_Initial):
    gain: float = 1.0
    name: ClassVar[str] = "init:xavier_normal"

    def _formula(self) -> str:
        return f"N(0, {self.gain:g}²·2/(fan_in + fan_out))"

    def _fill(self, result: Tensor, generator: torch.Generator) -> None:
        init.xavier_normal_(result, gain=self.gain, generator=generator)


@dataclass(frozen=True, slots=True)
class XavierUniform(_Initial):
    gain: float = 1.0
    name: ClassVar[str] = "init:xavier_uniform"

    def _formula(self) -> str:
        return f"U(±{self.gain:g}·√(6/(fan_in + fan_out)))"

    def _fill(self, result: Tensor, generator: torch.Generator) -> None:
        init.xavier_uniform_(result, gain=self.gain, generator=generator)


@dataclass(frozen=True, slots=True)
class TruncNormal(_Initial):
    std: float = 0.02
    name: ClassVar[str] = "init:trunc_normal"

    def _formula(self) -> str:
        return f"N(0, {self.std:g}²) cut at two standard deviations"

    def _fill(self, result: Tensor, generator: torch.Generator) -> None:
        init.trunc_normal_(result, std=self.std, a=-2 * self.std, b=2 * self.std, generator=generator)


@dataclass(frozen=True, slots=True)
class Orthogonal(_Initial):
    gain: float = 1.0
    name: ClassVar[str] = "init:orthogonal"

    def _formula(self) -> str:
        return f"{self.gain:g} times an orthogonal matrix (Saxe et al. 2014)"

    def _fill(self, result: Tensor, generator: torch.Generator) -> None:
        init.orthogonal_(result, gain=self.gain, generator=generator)


@dataclass(frozen=True, slots=True)
class Zeros(_Initial):
    name: ClassVar[str] = "init:zeros"

    def _by_fan(self) -> bool:
        return False

    def _formula(self) -> str:
        return "0"

    def _fill(self, result: Tensor, generator: torch.Generator) -> None:
        result.zero_()


@dataclass(frozen=True, slots=True)
class Ones(_Initial):
    name: ClassVar[str] = "init:ones"

    def _by_fan(self) -> bool:
        return False

    def _formula(self) -> str:
        return "1"

    def _fill(self, result: Tensor, generator: torch.Generator) -> None:
        result.fill_(1.0)
