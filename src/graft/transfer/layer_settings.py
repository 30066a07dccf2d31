"""Settings of live layers besides their tensors (epsilon, stride, …), and remarks on differences between the two
sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

from torch import Tensor, nn

Settings = tuple[tuple[str, str], ...]

_COMPARED = (
    "stride", "padding", "output_padding", "dilation", "groups", "padding_mode", "momentum", "padding_idx",
    "num_groups", "num_heads", "batch_first", "nonlinearity",
)  # fmt: skip
_AROUND = {
    "num_heads": "num_heads", "num_attention_heads": "num_heads", "window_size": "window_size",
    "shift_size": "shift_size", "norm_first": "norm_first",
}  # fmt: skip
"""Names of settings in attention modules and blocks; their tensors belong to the layers inside them."""
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_QUIET = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
"""Layers that have no effect in eval mode."""
_HARMLESS = ("training", "inplace", "return_indices", "recompute_scale_factor")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Layer:
    """The settings of the layer of one tensor."""

    epsilon: float | None = None
    settings: Settings = ()


UNKNOWN = Layer()
"""For a tensor that represents no layer."""


def layers_of(module: nn.Module) -> dict[int, Layer]:
    """Layer settings by the identity of the tensor that represents the layer: a batch norm's running_var, otherwise its
    first parameter.

    A tensor also represents the layers without tensors that are beside it. These are the pooling layers and activations
    of all modules whose first tensor it is, under their names, and the number of heads of an attention module around
    it.
    """
    layers: dict[int, Layer] = {}
    for child in module.modules():
        carrier = _carrier(child)
        if carrier is not None:
            epsilon = child.__dict__.get("eps")
            _add(layers, carrier, _own_settings(child), epsilon if isinstance(epsilon, float) else None)
        _add_around(layers, child)
    return layers


def _carrier(module: nn.Module) -> Tensor | None:
    own: dict[str, Tensor] = dict((*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)))
    return next((own[name] for name in ("running_var", "weight", *own) if name in own), None)


def _add(layers: dict[int, Layer], carrier: Tensor, settings: Settings, epsilon: float | None = None) -> None:
    before = layers.get(id(carrier), UNKNOWN)
    names = {name for name, _ in before.settings}
    further = tuple(each for each in settings if each[0] not in names)
    layers[id(carrier)] = Layer(before.epsilon if epsilon is None else epsilon, (*before.settings, *further))


def _own_settings(module: nn.Module) -> Settings:
    kind = kind_of(module)
    settings = {name: _plain(module.__dict__[name]) for name in _COMPARED if name in module.__dict__}
    return (*((("layer", kind),) if kind else ()), *settings.items())


def _add_around(layers: dict[int, Layer], module: nn.Module) -> None:
    """Adds the settings of a module that contains other modules, apart from their tensors."""
    inner = [(name, child) for name, child in module.named_children() if kind_of(child) and _is_bare(child)]
    heads = {
        new: _same_on_every_side(module.__dict__[name]) for name, new in _AROUND.items() if name in module.__dict__
    }
    if not inner and not heads:
        return
    depth, carrier = _first_carrier(module)
    if carrier is not None:
        up = "../" * max(depth - 1, 0)  # beside the layer, or further out
        _add(layers, carrier, (*heads.items(), *((up + name, _described(child)) for name, child in inner)))


def _first_carrier(module: nn.Module) -> tuple[int, Tensor | None]:
    """The depth of the first layer inside, and the tensor that represents it."""
    for path, child in module.named_modules():
        carrier = _carrier(child)
        if carrier is not None:
            return path.count(".") + bool(path), carrier
    return 0, None


def _is_bare(module: nn.Module) -> bool:
    """Whether a layer has neither tensors nor submodules."""
    return _carrier(module) is None and not any(True for _ in module.children())


def kind_of(module: nn.Module) -> str:
    """The class of torch.nn that the module derives from most closely; "" if none."""
    return _kind(type(module))


@cache
def _kind(cls: type[nn.Module]) -> str:
    if issubclass(cls, _BATCH_NORMS):
        return "BatchNorm"
    if issubclass(cls, _QUIET):
        return "Identity"
    own = (base for base in cls.__mro__ if base is not nn.Module and getattr(nn, base.__name__, None) is base)
    return next((base.__name__ for base in own), "")


def _described(layer: nn.Module) -> str:
    """A layer without tensors, with its settings: MaxPool2d(kernel_size=2, …)."""
    kind = kind_of(layer)
    if kind == "Identity":
        return kind
    values = {name: value for name, value in vars(layer).items() if not name.startswith("_") and name not in _HARMLESS}
    settings = ", ".join(f"{name}={_same_on_every_side(value)}" for name, value in sorted(values.items()))
    return f"{kind}({settings})"


def _plain(value: object) -> str:
    return str(tuple(cast("list[Any]", value)) if isinstance(value, list) else value)


def _same_on_every_side(value: object) -> str:
    """Reduces (2, 2) to 2."""
    if isinstance(value, list | tuple):
        sides = cast("Sequence[Any]", value)
        return str(sides[0]) if len(set(sides)) == 1 else _plain(value)
    return str(value)


@dataclass(slots=True)
class Differences:
    """Pairs of layers with different settings, grouped so that one remark covers all with the same difference."""

    names: dict[tuple[str, str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def compare(self, target: str, before: Settings, after: Settings) -> None:
        """Records the settings that both sides have and that differ."""
        theirs = dict(before)
        for name, value in after:
            if theirs.get(name, value) != value:
                self.names[name, theirs[name], value].append(target)

    def epsilon(self, target: str, before: float, after: float) -> None:
        self.names["eps", f"{before:g}", f"{after:g}"].append(target)

    def remarks(self) -> list[str]:
        return [_remark(*difference, names) for difference, names in self.names.items()]


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
