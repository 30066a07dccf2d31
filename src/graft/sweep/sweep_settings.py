"""The settings under `hydra.sweeper`, as typed values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from graft.config.faults import ConfigError, Fault, nearest
from graft.sweep.objectives import read_objectives
from graft.sweep.record import Objective

SAMPLERS = ("tpe", "random", "cmaes", "qmc", "gp")
PRUNERS = ("none", "median", "halving", "hyperband", "wilcoxon")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSettings:
    """The keys of hydra/sweeper=grid and, with the last four, of hydra/sweeper=bayes."""

    objectives: tuple[Objective, ...]
    """The metrics that compare trials, each to be minimised or maximised."""
    storage: str | None = None
    """URL of a database: sqlite:///FILE, postgresql://… Null: the file journal.log in the sweep's folder."""
    study: str | None = None
    """Name of the study in the store. Null: the name of the sweep's folder."""
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The values to try for each key, written as on the command line, which takes precedence."""
    max_failures: int | None = None
    """Number of failed trials after which no further trial starts. Null: no limit."""
    retries: int = 0
    """Number of further attempts for a failing trial. Each resumes from the trial's checkpoint."""
    retry_failed: bool = False
    """Repeat the trials that failed in earlier calls of the sweep."""
    max_interruptions: int = 10
    """Number of times that the sweep may be killed during a trial. After that, the trial is marked as failed."""
    batch: int | None = None
    """Number of trials passed to the launcher at once. Null: as many as it submits together, which is one for most."""
    pruner: str = "none"
    """Optuna's pruner, which stops unpromising trials early: none, median, halving, hyperband, wilcoxon."""
    pruner_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Arguments of the pruner."""
    n_trials: int | None = None
    """Number of trials in the study, including those of earlier calls. Null: a grid, with one trial per combination."""
    sampler: str = "tpe"
    """Optuna's sampler, which chooses the next trial: tpe, random, cmaes, qmc, gp."""
    sampler_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Arguments of the sampler."""
    seed: int = 0
    """Seed of the sampler. Trial n depends only on the seed, on n and on the trials before it."""


def read_settings(settings: Mapping[str, Any]) -> SweepSettings:
    """Checks the plain values of `hydra.sweeper`.

    Raises:
        ConfigError: lists every fault.
    """
    values = dict(settings)
    entries = values.get("objectives") or []
    objectives, faults = read_objectives(entries if isinstance(entries, list | tuple) else [entries])
    for name in MAPPINGS:
        values[name] = {} if values.get(name) is None else values[name]
    values["objectives"] = tuple(objectives)
    faults += _faults(values)
    if faults:
        raise ConfigError(faults)
    return SweepSettings(**values)


EACH_EPOCH = ("val/", "train/")
"""Prefixes of the metrics that a pruner can monitor."""
MAPPINGS = ("params", "pruner_options", "sampler_options")
NULLABLE = ("n_trials", "max_failures", "batch")
WHOLE = {"n_trials": 1, "max_failures": 1, "retries": 0, "max_interruptions": 1, "batch": 1, "seed": 0}


def _faults(values: Mapping[str, Any]) -> Iterator[Fault]:
    yield from _unknown(values)
    yield from _beyond_limits(values)
    yield from _together(values)


def _unknown(values: Mapping[str, Any]) -> Iterator[Fault]:
    names = [each.name for each in fields(SweepSettings)]
    for name in values:
        if name not in names:
            closest = nearest(name, names, count=1)
            yield _fault(name, "a key of the sweeper", values[name], f"hydra.sweeper.{closest[0]}=…" if closest else "")


def _beyond_limits(values: Mapping[str, Any]) -> Iterator[Fault]:
    for name, least in WHOLE.items():
        value = values.get(name, least)
        if value is None and name in NULLABLE:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            yield _fault(name, f"a whole number from {least} upward", value, f"hydra.sweeper.{name}={max(least, 1)}")
    for name, choices in {"sampler": SAMPLERS, "pruner": PRUNERS}.items():
        if name in values and values[name] not in choices:
            closest = nearest(str(values[name]), choices, count=1) or choices[:1]
            yield _fault(name, f"one of {', '.join(choices)}", values[name], f"hydra.sweeper.{name}={closest[0]}")
    if not isinstance(values.get("retry_failed", False), bool):
        yield _fault("retry_failed", "true or false", values["retry_failed"], "hydra.sweeper.retry_failed=true")
    for name in ("storage", "study"):
        value = values.get(name)
        if value is not None and not (isinstance(value, str) and value):
            yield _fault(name, "text, or null", value, f"hydra.sweeper.{name}=null")
    for name in MAPPINGS:
        if not isinstance(values[name], Mapping):
            yield _fault(name, "names and their values", values[name], f"'hydra.sweeper.{name}={{NAME: VALUE}}'")


def _together(values: Mapping[str, Any]) -> Iterator[Fault]:
    objectives, pruner = values["objectives"], values.get("pruner", "none")
    several = len(objectives) > 1
    if several and pruner != "none":
        yield _fault("pruner", "none with several objectives", pruner, "hydra.sweeper.pruner=none")
    elif pruner != "none" and objectives and not objectives[0].metric.startswith(EACH_EPOCH):
        expected = f"none with the objective {objectives[0].metric}, which is measured once, at a trial's end"
        yield _fault("pruner", expected, pruner, "hydra.sweeper.pruner=none")
    if several and values.get("n_trials") and values.get("sampler") == "cmaes":
        yield _fault("sampler", "another with several objectives", "cmaes", "hydra.sweeper.sampler=tpe")
    for name, owner in {"pruner_options": "pruner", "sampler_options": "sampler"}.items():
        if values[name] and values.get(owner) == "none":
            yield _fault(name, f"nothing with {owner}=none, where it has no effect", values[name], f"another {owner}")


def _fault(name: str, expected: str, received: object, remedy: str) -> Fault:
    return Fault(key=f"hydra.sweeper.{name}", expected=expected, received=repr(received), remedy=remedy)
