"""Where trials come from: the combinations of a grid, or a search that learns from the trials before."""

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
    """A further trial."""

    choices: Mapping[str, str] | None = None
    """None: a sampler chooses, once the trial has its number."""
    again_of: int | None = None
    """The failed trial that it tries anew."""
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The choices as the sampler knows them."""
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict[str, BaseDistribution])


class Grid:
    """Each combination once; a failed one again where that is asked for.

    Args:
        again: numbers of failed trials that are to be tried anew.
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
        """Trials, all in all."""
        return len(self.points)


class Search:
    """As many trials as are wanted, each chosen by the sampler.

    Raises:
        InputError: the space cannot be searched by this sampler, or is another than the study's.
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
        """Trials, all in all."""
        return self.n_trials

    def _again(self, trial: TrialRecord) -> Proposal:
        """With the choices that it had; of those the sampler is told that lie in the space as it is now."""
        params = {
            key: value
            for key, kind in self.distributions.items()
            if key in trial.choices and (value := _value(key, kind, trial.choices[key])) is not None
        }
        kinds = {key: self.distributions[key] for key in params}
        return Proposal(choices=trial.choices, again_of=trial.number, params=params, distributions=kinds)


def _value(key: str, kind: BaseDistribution, text: str) -> Any:
    """What the text of a choice stands for; None where that lies outside the distribution."""
    try:
        value = text if isinstance(kind, CategoricalDistribution) else float(text)
        value = int(text) if isinstance(kind, IntDistribution) else value
        optuna.trial.create_trial(state=TrialState.FAIL, params={key: value}, distributions={key: kind})
    except ValueError:
        return None
    return value


def _suggest(trial: optuna.Trial, key: str, kind: BaseDistribution) -> Any:
    """A trial whose process died while it was drawn keeps what it had been given."""
    if isinstance(kind, CategoricalDistribution):
        return trial.suggest_categorical(key, kind.choices)
    if isinstance(kind, IntDistribution):
        return trial.suggest_int(key, kind.low, kind.high, step=kind.step, log=kind.log)
    assert isinstance(kind, optuna.distributions.FloatDistribution)
    return trial.suggest_float(key, kind.low, kind.high, step=kind.step, log=kind.log)


def _check_space(present: Mapping[str, BaseDistribution], study: optuna.Study) -> None:
    """Optuna lets an interval grow, and a choice not."""
    for trial in study.get_trials(deepcopy=False):
        for key, before in trial.distributions.items():
            try:
                check_distribution_compatibility(before, present.get(key, before))
            except ValueError:
                raise InputError(
                    f"{key}: expected what the study has searched over until now ({before}), received {present[key]};"
                    " try the same again, or another hydra.sweep.dir"
                ) from None
