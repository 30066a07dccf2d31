"""A sweep's folder as values, with what Optuna says of its hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from graft.study_record import COMPLETE, StudyRecord, TrialRecord
from graft.sweep.ledger import DIRECTIONS, TrialLedger
from graft.sweep.objectives import read_objectives
from graft.sweep.paths import read_description
from graft.sweep.store import quiet

FEWEST = 20  # complete trials, of which PED-ANOVA sets the best tenth against all
"""Complete trials below which no importance is told."""


def read_study(folder: Path | str) -> StudyRecord:
    """The study of the sweep in this folder.

    Raises:
        InputError: this is no sweep's folder, or its store cannot be opened.
    """
    ledger = open_ledger(folder)
    trials = tuple(ledger.trials())
    return StudyRecord(
        folder=ledger.folder,
        command=tuple(read_description(ledger.folder)["command"]),
        objectives=ledger.objectives,
        trials=trials,
        importances=importances(trials, ledger.objectives[0].direction),
    )


def open_ledger(folder: Path | str) -> TrialLedger:
    """The ledger of the sweep in this folder.

    Raises:
        InputError: this is no sweep's folder, or its store cannot be opened.
    """
    quiet()
    folder = Path(folder)
    told = read_description(folder)
    objectives, _ = read_objectives(told["objectives"])
    return TrialLedger(folder, objectives, storage=told["storage"], study=told["study"])


def importances(trials: Sequence[TrialRecord], direction: str) -> dict[str, float]:
    """Each key's share of what moves the first objective, by Optuna's PED-ANOVA (Watanabe et al. 2023), largest first.

    A study in memory stands for the real one, whose grids have no parameters that Optuna knows.
    """
    complete = [trial for trial in trials if trial.state == COMPLETE]
    varied = [key for key in _common_keys(complete) if len({trial.choices[key] for trial in complete}) > 1]
    if len(complete) < FEWEST or not varied:
        return {}
    if len(varied) == 1:
        return {varied[0]: 1.0}
    kinds = {key: _kind([trial.choices[key] for trial in complete]) for key in varied}
    if len({trial.values[0] for trial in complete}) == 1:
        return {}  # nothing has moved it
    study = optuna.create_study(direction=DIRECTIONS[direction])
    for trial in complete:
        study.add_trial(
            optuna.trial.create_trial(
                value=trial.values[0], params=_params(trial.choices, kinds), distributions=dict(kinds)
            )
        )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()  # the default from Optuna 5 on only
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _common_keys(trials: Sequence[TrialRecord]) -> list[str]:
    return [key for key in trials[0].choices if all(key in trial.choices for trial in trials)] if trials else []


def _kind(texts: Sequence[str]) -> BaseDistribution:
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return CategoricalDistribution(sorted(set(texts)))
    low, high = min(numbers), max(numbers)
    return FloatDistribution(low, high, log=low > 0 and high > 100 * low)


def _params(choices: Mapping[str, str], kinds: Mapping[str, BaseDistribution]) -> dict[str, str | float]:
    return {
        key: float(choices[key]) if isinstance(kind, FloatDistribution) else choices[key] for key, kind in kinds.items()
    }
