"""Optuna's samplers and pruners by name."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from optuna import pruners, samplers
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from graft.config.faults import InputError, nearest

SAMPLERS: dict[str, type[BaseSampler]] = {
    "tpe": samplers.TPESampler,
    "random": samplers.RandomSampler,
    "cmaes": samplers.CmaEsSampler,
    "qmc": samplers.QMCSampler,
    "gp": samplers.GPSampler,
}
PRUNERS: dict[str, type[BasePruner]] = {
    "none": pruners.NopPruner,
    "median": pruners.MedianPruner,
    "halving": pruners.SuccessiveHalvingPruner,
    "hyperband": pruners.HyperbandPruner,
    "wilcoxon": pruners.WilcoxonPruner,
}
NEEDS = {"cmaes": "cmaes", "qmc": "scipy", "gp": "scipy", "wilcoxon": "scipy"}
"""Packages that Optuna asks for when a trial is chosen or judged, which is late."""
# What Optuna would warn of at each trial: the first trials of a study are drawn one key at a time, by design.
QUIET = {"cmaes": {"warn_independent_sampling": False}, "gp": {"warn_independent_sampling": False}}


def make_sampler(name: str, options: Mapping[str, Any], *, seed: int, number: int) -> BaseSampler:
    """The sampler of one trial. Its random numbers depend only on (seed, number), so an interrupted study continues as
    it would have without the interruption."""
    state = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    settings: dict[str, Any] = {"seed": state, **QUIET.get(name, {})}
    if name == "qmc":  # one sequence, of which the store counts the points
        settings = {"seed": seed, "scramble": True, "warn_independent_sampling": False}
    _check_installed("sampler", name)
    return _make(SAMPLERS[name], {**settings, **options}, f"hydra.sweeper.sampler_options for {name}")


def make_pruner(name: str, options: Mapping[str, Any]) -> BasePruner:
    _check_installed("pruner", name)
    return _make(PRUNERS[name], dict(options), f"hydra.sweeper.pruner_options for {name}")


def _check_installed(what: str, name: str) -> None:
    package = NEEDS.get(name)
    if package is not None and find_spec(package) is None:
        raise InputError(
            f"hydra.sweeper.{what}={name}: expected the package {package}, received an environment without it; try"
            " pip install 'graft-transfer[sweep]'"
        )


def _make(kind: type[Any], settings: dict[str, Any], what: str) -> Any:
    parameters = set(inspect.signature(kind).parameters)
    for name in settings:
        if name not in parameters:
            closest = nearest(name, parameters) or sorted(parameters)
            raise InputError(f"{what}: expected {', '.join(sorted(parameters))}, received {name}; try {closest[0]}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # QMC (3.0) and Wilcoxon (3.6) are still called so
            return kind(**settings)
    except (TypeError, ValueError, ImportError) as error:
        raise InputError(f"{what}: expected values that Optuna takes, received {settings} ({error})") from error
