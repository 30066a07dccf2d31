"""The adapters by name, and the way from a user's rule to the formulas that make a tensor fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from graft.config.faults import nearest
from graft.transfer.adapt import axes, channels, classes, combining, epsilon, initial, kernels, positions
from graft.transfer.adapt.rule import Adapter, Chain, Combining, Misfit, Shape, Site, fit

__all__ = ["ADAPTERS", "Adapter", "Chain", "Combining", "Misfit", "Shape", "Site", "fit", "fitting", "parse"]

_CLASSES: tuple[type[Adapter], ...] = (
    axes.Squeeze,
    channels.OutputTruncate,
    channels.OutputPad,
    channels.InputSum,
    channels.InputMean,
    channels.InputSelect,
    channels.InputRepeat,
    channels.InputZero,
    kernels.KernelCrop,
    kernels.KernelPad,
    kernels.KernelResize,
    kernels.Inflate,
    kernels.PatchResize,
    positions.PositionResize,
    positions.PositionDrop,
    combining.Join,
    combining.ClassPosition,
    classes.ClassRows,
    epsilon.EpsilonFold,
    initial.KaimingNormal,
    initial.KaimingUniform,
    initial.XavierNormal,
    initial.XavierUniform,
    initial.TruncNormal,
    initial.Orthogonal,
    initial.Zeros,
    initial.Ones,
)
_EXPLICIT = (
    positions.PositionResize,
    positions.PositionDrop,
    combining.Join,
    combining.ClassPosition,
    classes.ClassRows,
)
"""Adapters that shapes alone never suggest: they are for tensors of tokens, or need to know which names belong
together."""
ADAPTERS: dict[str, type[Adapter]] = {adapter.name: adapter for adapter in _CLASSES}


def parse(rule: Any) -> tuple[Adapter, ...]:
    """The adapters in a user's rule: a name, {name: …, its options}, or a list of these applied in order.

    Raises:
        Misfit: an unknown adapter or option, or an invalid value of an option.
    """
    if isinstance(rule, str):
        return (_make(rule, {}),)
    if isinstance(rule, Mapping):
        options = dict(rule)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise Misfit(
                f"expected an adapter as {{name: …, its options}}, received {dict(rule)}; try name: output_pad"
            )
        return (_make(name, options),)
    if isinstance(rule, Sequence) and rule:
        return tuple(adapter for each in rule for adapter in parse(each))
    raise Misfit(f"expected an adapter's name, {{name: …}} or a list of them, received {rule!r}")


def _make(name: str, options: Mapping[str, Any]) -> Adapter:
    if name not in ADAPTERS:
        near = nearest(name, ADAPTERS) or list(ADAPTERS)
        raise Misfit(f"expected an adapter, received {name!r}; try {', '.join(near)}")
    options_of = [field.name for field in fields(ADAPTERS[name])]  # pyright: ignore[reportArgumentType]
    unknown = [option for option in options if option not in options_of]
    if unknown:
        raise Misfit(f"{name}: expected options {', '.join(options_of) or 'none'}, received {', '.join(unknown)}")
    frozen = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return ADAPTERS[name](**frozen)


def fitting(donor: Shape, site: Site) -> list[str]:
    """Rules, as a user would write them, that turn a donor of this shape into the target's shape; those that change
    least come first."""
    return list(_fitting(donor, site))


def _fitting(donor: Shape, site: Site) -> Iterator[str]:
    of_tokens: list[type[Adapter]] = [axes.Squeeze, positions.PositionResize, positions.PositionDrop]
    of_layers = [adapter for adapter in _CLASSES if not adapter.name.startswith("init:") and adapter not in _EXPLICIT]
    if positions.has_tokens(site):
        chosen = of_tokens
    elif donor[:-2] == (1,):
        chosen = [*of_tokens, *of_layers]
    else:
        chosen = of_layers
    singles = [adapter() for adapter in dict.fromkeys(chosen)]
    for adapter in singles:
        if _fits((adapter,), donor, site):
            yield adapter.name
    outputs = [adapter for adapter in singles if adapter.name.startswith("output_")]
    inputs = [adapter for adapter in singles if adapter.name.startswith("input_")]
    for output in outputs:
        for entry in inputs:
            if all(_touches(adapter, donor, site) for adapter in (output, entry)) and _fits(
                (output, entry), donor, site
            ):
                yield f"[{output.name}, {entry.name}]"


def _fits(adapters: tuple[Adapter, ...], donor: Shape, site: Site) -> bool:
    try:
        return fit(adapters, donor, site) is not None
    except Misfit:
        return False


def _touches(adapter: Adapter, donor: Shape, site: Site) -> bool:
    try:
        return adapter.shape(donor, site) is not None
    except Misfit:
        return False
