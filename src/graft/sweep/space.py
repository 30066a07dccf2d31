"""The search space of a sweep: Hydra's override grammar as points of a grid or as Optuna's distributions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import product
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from graft.config.faults import ConfigError, Fault, InputError
from graft.sweep.record import Objective

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

NUMBERS_ONLY = ("cmaes", "qmc")
SWITCHES = {"latency_ms": "trainer.latency"}
"""Metrics that a run measures only if a key is set, with this key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The overrides of a sweep, divided into fixed and swept ones."""

    fixed: tuple[str, ...]
    """Overrides that are the same for every trial, as they were written."""
    swept: Mapping[str, Override]
    """The swept overrides by key, including the sign of an addition (+key)."""

    def overrides(self, choices: Mapping[str, str]) -> list[str]:
        """All overrides of one trial."""
        return [*self.fixed, *(f"{key}={value}" for key, value in choices.items())]


def read_space(params: Mapping[str, Any], arguments: Iterable[str], parser: OverridesParser) -> Space:
    """The space from the command line, which takes precedence, and from `hydra.sweeper.params`.

    Raises:
        InputError: an entry of params is not a valid override.
    """
    fixed: dict[str, str] = {}
    swept: dict[str, Override] = {}
    for line in [*(f"{key}={value}" for key, value in params.items()), *arguments]:
        try:
            override = parser.parse_overrides([line])[0]
        except HydraException as error:
            raise InputError(
                f"hydra.sweeper.params: expected values in Hydra's override syntax, received {line!r}"
                f" ({str(error).splitlines()[0]}); try choice(…), range(…), interval(…) or tag(log, interval(…))"
            ) from error
        key = override.get_key_element()
        fixed.pop(key, None)
        swept.pop(key, None)
        if override.is_sweep_override():
            swept[key] = override
        else:
            fixed[key] = override.input_line or f"{key}={override.get_value_element_as_str()}"
    return Space(fixed=tuple(fixed.values()), swept=swept)


def measuring(space: Space, objectives: Iterable[Objective]) -> Space:
    """The space with the keys set that make runs measure the objectives.

    Raises:
        InputError: the command switches such a key off.
    """
    fixed = list(space.fixed)
    for objective in objectives:
        switch = SWITCHES.get(objective.metric)
        if switch is None:
            continue
        lines = [line for line in (*fixed, *space.swept) if line.lstrip("+").split("=")[0] == switch]
        if any(line.partition("=")[2].lower() != "true" for line in lines):
            raise InputError(
                f"{switch}: expected true, as trials are judged by {objective.metric}, received {lines[0]}; leave it"
                " out: it is switched on where it is an objective"
            )
        if not lines:
            fixed.append(f"{switch}=true")
    return replace(space, fixed=tuple(fixed))


def points(space: Space) -> list[dict[str, str]]:
    """Every combination, with the last key varying fastest. A repeated value counts once.

    Raises:
        InputError: a key is swept over an interval, which has infinitely many values, or over nothing.
    """
    faults = [
        Fault(
            key=key,
            expected="values that can be counted, for a grid",
            received=str(override.get_value_string()),
            remedy=f"hydra/sweeper=bayes, or {key}=choice(…)",
        )
        for key, override in space.swept.items()
        if not override.is_discrete_sweep()
    ]
    if faults:
        raise ConfigError(faults)
    values = [
        list(dict.fromkeys(str(value) for value in override.sweep_string_iterator()))
        for override in space.swept.values()
    ]
    if not all(values):
        pairs = zip(space.swept.items(), values, strict=True)
        raise ConfigError([_empty(key, override) for (key, override), each in pairs if not each])
    return [dict(zip(space.swept, combination, strict=True)) for combination in product(*values)]


def distributions(space: Space, sampler: str) -> dict[str, BaseDistribution]:
    """Optuna's distribution for each swept key: numbers for an interval or a range, texts for a choice or a glob.

    Raises:
        InputError: nothing is swept, a key has no values, or the sampler only supports numbers.
    """
    if not space.swept:
        raise InputError(
            "hydra/sweeper=bayes: expected a key to search over, received none;"
            " try 'optimizer.lr=tag(log, interval(1e-5, 1e-2))'"
        )
    faults = list(_faults(space, sampler))
    if faults:
        raise ConfigError(faults)
    return {key: _distribution(override) for key, override in space.swept.items()}


def as_text(value: Any) -> str:
    """A sampled value in the override grammar. Numbers keep every digit."""
    return value if isinstance(value, str) else repr(value)


def _faults(space: Space, sampler: str) -> Iterator[Fault]:
    for key, override in space.swept.items():
        swept: Any = override.value()
        tags: set[str] = getattr(swept, "tags", set())
        received = str(override.get_value_string())
        if unknown := tags - {"log"}:
            yield Fault(key=key, expected="no tag but log", received=", ".join(sorted(unknown)))
        elif tags and not override.is_interval_sweep():
            remedy = f"{key}=tag(log, interval(…))"
            yield Fault(key=key, expected="the tag log on an interval only", received=received, remedy=remedy)
        elif tags and swept.start <= 0:
            yield Fault(key=key, expected="an interval above 0 with the tag log", received=received)
        elif override.is_interval_sweep():
            if not -math.inf < swept.start <= swept.end < math.inf:
                yield Fault(key=key, expected="an interval from a number up to another", received=received)
        elif not any(True for _ in override.sweep_string_iterator()):
            yield _empty(key, override)
        elif _is_categorical(override) and sampler in NUMBERS_ONLY:
            expected = f"an interval or a range with sampler={sampler}, which knows numbers only"
            yield Fault(key=key, expected=expected, received=received, remedy="hydra.sweeper.sampler=tpe")


def _empty(key: str, override: Override) -> Fault:
    return Fault(key=key, expected="at least one value", received=str(override.get_value_string()))


def _is_categorical(override: Override) -> bool:
    return not (override.is_interval_sweep() or override.is_range_sweep())


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution

    swept = override.value()
    if isinstance(swept, IntervalSweep):
        return _interval(swept)
    if isinstance(swept, RangeSweep):
        return _range(list(swept.range()), abs(swept.step))
    return CategoricalDistribution([str(value) for value in override.sweep_string_iterator()])


def _interval(swept: IntervalSweep) -> BaseDistribution:
    """The distribution of an interval, which includes both ends."""
    from optuna.distributions import FloatDistribution, IntDistribution

    assert swept.start is not None
    assert swept.end is not None
    log = "log" in swept.tags
    if isinstance(swept.start, int) and isinstance(swept.end, int):
        return IntDistribution(swept.start, swept.end, log=log)
    return FloatDistribution(float(swept.start), float(swept.end), log=log)


def _range(values: Sequence[float], step: float) -> BaseDistribution:
    """The distribution of a range. Hydra's range excludes its stop; Optuna's distributions include their end."""
    from optuna.distributions import FloatDistribution, IntDistribution

    if all(isinstance(value, int) for value in values):
        return IntDistribution(int(min(values)), int(max(values)), step=int(step))
    low, high = Decimal(str(min(values))), Decimal(str(step)) * (len(values) - 1)  # 3 × 0.3 is 0.9 here
    return FloatDistribution(float(low), float(low + high), step=float(step))
