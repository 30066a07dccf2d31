"""Sources of trials: the combinations of a grid, or a search that learns from earlier trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FrozenTrial, TrialState

from graft.config.faults import InputError
from graft.sweep.record import FAILED, TrialRecord
from graft.sweep.samplers import make_sampler
from graft.sweep.space import Space, as_text, distributions, points
from graft.sweep.sweep_settings import SweepSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A new trial."""

    choices: Mapping[str, str] | None = None
    """The choices by key. None: a sampler chooses when the trial has its number."""
    again_of: int | None = None
    """Number of the failed trial that it repeats."""
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The choices as values for the sampler."""
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict[str, BaseDistribution])


class Grid:
    """Proposes each combination once, and failed ones again on request.

    Args:
        again: numbers of failed trials to repeat.
    """

    def __init__(self, space: Space, again: Sequence[int] = ()) -> None:
        self.space = space
        self.points = points(space)
        self.again = set(again)

    def propose(self, trials: Sequence[TrialRecord]) -> Proposal | None:
        latest = {frozenset(trial.choices.items()): trial for trial in trials}
        for point in self.points:
            last = latest.get(frozenset(point.items()))
            if last is None:
                return Proposal(choices=point)
            if last.state == FAILED and last.number in self.again:
                return Proposal(choices=point, again_of=last.number)
        return None

    def choose(self, study: optuna.Study, trial: FrozenTrial, identifier: int) -> dict[str, str]:
        raise AssertionError(f"a grid's trial has its choices from the start, and trial {trial.number} has none")

    @property
    def wanted(self) -> int:
        """Total number of trials."""
        return len(self.points)


class Search:
    """Proposes the requested number of trials, each chosen by the sampler.

    Raises:
        InputError: the sampler cannot search this space, or the space differs from the study's.
    """

    def __init__(self, space: Space, settings: SweepSettings, study: optuna.Study, again: Sequence[int] = ()) -> None:
        assert settings.n_trials is not None, "a search has its number of trials"
        self.space = space
        self.settings = settings
        self.n_trials = settings.n_trials
        self.distributions = distributions(space, settings.sampler)
        self.again = set(again)
        make_sampler(settings.sampler, settings.sampler_options, seed=settings.seed, number=0)  # its options are right
        _check_space(self.distributions, study)

    def propose(self, trials: Sequence[TrialRecord]) -> Proposal | None:
        repeated = {trial.again_of for trial in trials}
        for trial in trials:
            if trial.number in self.again and trial.number not in repeated:
                return self._again(trial)
        return Proposal() if len(trials) - len(repeated - {None}) < self.n_trials else None

    def choose(self, study: optuna.Study, trial: FrozenTrial, identifier: int) -> dict[str, str]:
        settings = self.settings
        study.sampler = make_sampler(
            settings.sampler, settings.sampler_options, seed=settings.seed, number=trial.number
        )
        proposal = optuna.Trial(study, identifier)
        return {key: as_text(_suggest(proposal, key, distribution)) for key, distribution in self.distributions.items()}

    @property
    def wanted(self) -> int:
        """Total number of trials."""
        return self.n_trials

    def _again(self, trial: TrialRecord) -> Proposal:
        """Repeats a trial with its choices. The sampler gets only those inside the present search space."""
        params = {
            key: value
            for key, kind in self.distributions.items()
            if key in trial.choices and (value := _value(key, kind, trial.choices[key])) is not None
        }
        kinds = {key: self.distributions[key] for key in params}
        return Proposal(choices=trial.choices, again_of=trial.number, params=params, distributions=kinds)


def _value(key: str, kind: BaseDistribution, text: str) -> Any:
    """The value of a choice that is given as text; None if it is outside the distribution."""
    try:
        value = text if isinstance(kind, CategoricalDistribution) else float(text)
        value = int(text) if isinstance(kind, IntDistribution) else value
        optuna.trial.create_trial(state=TrialState.FAIL, params={key: value}, distributions={key: kind})
    except ValueError:
        return None
    return value


def _suggest(trial: optuna.Trial, key: str, kind: BaseDistribution) -> Any:
    """Draws a value. A trial whose process died during the drawing keeps the values that it already has."""
    if isinstance(kind, CategoricalDistribution):
        return trial.suggest_categorical(key, kind.choices)
    if isinstance(kind, IntDistribution):
        return trial.suggest_int(key, kind.low, kind.high, step=kind.step, log=kind.log)
    assert isinstance(kind, optuna.distributions.FloatDistribution)
    return trial.suggest_float(key, kind.low, kind.high, step=kind.step, log=kind.log)


def _check_space(present: Mapping[str, BaseDistribution], study: optuna.Study) -> None:
    """Refuses a changed set of choices, which Optuna does not support; it does support a changed interval."""
    for trial in study.get_trials(deepcopy=False):
        for key, before in trial.distributions.items():
            try:
                check_distribution_compatibility(before, present.get(key, before))
            except ValueError:
                raise InputError(
                    f"{key}: expected what the study has searched over until now ({before}), received {present[key]};"
                    " try the same again, or another hydra.sweep.dir"
                ) from None
