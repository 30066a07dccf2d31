"""How live layers compute beside their tensors (epsilon, stride …), and what is said where two sides differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

Settings = tuple[tuple[str, str], ...]

_COMPARED = ("stride", "padding", "output_padding", "dilation", "groups", "padding_mode", "momentum", "padding_idx")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Layer:
    """What one tensor's layer is set to."""

    epsilon: float | None = None
    settings: Settings = ()


UNKNOWN = Layer()
"""Of a tensor that stands for no layer."""


def layers_of(modules: Iterable[nn.Module]) -> dict[int, Layer]:
    """By the identity of the tensor that stands for the layer: a batch norm's running_var, else its weight."""
    return dict(_layers(modules))


def _layers(modules: Iterable[nn.Module]) -> Iterator[tuple[int, Layer]]:
    for child in modules:
        own: dict[str, Any] = {**child.__dict__.get("_parameters", {}), **child.__dict__.get("_buffers", {})}
        carrier = own.get("running_var")
        carrier = own.get("weight") if carrier is None else carrier
        if isinstance(carrier, Tensor):
            given = {name: child.__dict__[name] for name in _COMPARED if name in child.__dict__}
            epsilon = child.__dict__.get("eps")
            settings = tuple((name, str(value)) for name, value in given.items())
            yield id(carrier), Layer(epsilon if isinstance(epsilon, float) else None, settings)


@dataclass(slots=True)
class Differences:
    """Pairs of layers that are set otherwise, gathered so that one remark speaks of all that differ alike."""

    found: dict[tuple[str, str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def compare(self, target: str, before: Settings, after: Settings) -> None:
        """Notes what both sides say and say differently."""
        theirs = dict(before)
        for name, value in after:
            if theirs.get(name, value) != value:
                self.found[name, theirs[name], value].append(target)

    def epsilon(self, target: str, before: float, after: float) -> None:
        self.found["eps", f"{before:g}", f"{after:g}"].append(target)

    def remarks(self) -> list[str]:
        return [_remark(*difference, names) for difference, names in self.found.items()]


_CONSEQUENCES: Mapping[str, str] = {
    "eps": "the norms compute something else",
    "momentum": "statistics move at another pace in training",
}


def _remark(name: str, before: str, after: str, names: list[str]) -> str:
    which = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else "")
    what = _CONSEQUENCES.get(name, "the same weights compute something else")
    folds = name == "eps" and any(each.endswith("running_var") for each in names)
    fold = " or donor.adapt={'*running_var': epsilon_fold}, which is exact in evaluation" if folds else ""
    return f"{which}: {name} is {before} in the donor, {after} in the target, so {what}; try the donor's {name}{fold}"
