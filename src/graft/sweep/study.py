"""Reads a study from its ledger, and summarises it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from graft.page.terminal import aligned
from graft.sweep.ledger import DIRECTIONS, TrialLedger
from graft.sweep.objectives import read_objectives
from graft.sweep.record import COMPLETE, STATES, StudyRecord, TrialRecord, read_description
from graft.sweep.store import quiet

FEWEST = 20  # complete trials, of which PED-ANOVA sets the best tenth against all
"""Number of complete trials from which importances are computed."""


def read_study(folder: Path | str) -> StudyRecord:
    """The study of the sweep in this folder.

    Raises:
        InputError: the folder is not a sweep's, or its store cannot be opened.
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
        InputError: the folder is not a sweep's, or its store cannot be opened.
    """
    quiet()
    folder = Path(folder)
    description = read_description(folder)
    objectives, _ = read_objectives(description["objectives"])
    return TrialLedger(folder, objectives, storage=description["storage"], study=description["study"])


def importances(trials: Sequence[TrialRecord], direction: str) -> dict[str, float]:
    """Importance of each key for the first objective, as a fraction, by Optuna's PED-ANOVA (Watanabe et al. 2023).

    Largest first. It uses a copy of the study in memory, because a grid has no parameters in Optuna's sense.
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


SHOWN = 5
"""Number of best trials that are shown if there are several objectives."""


def summary(study: StudyRecord) -> str:
    counts = Counter(trial.state for trial in study.trials)
    counts_by_state = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    lines = [f"\n{len(study.trials)} trials: {counts_by_state or 'none'}"]
    lines += [f"best      {_line(study, trial)}" for trial in study.best[:SHOWN]]
    if len(study.best) > SHOWN:
        lines.append(f"          and {len(study.best) - SHOWN} more that none other dominates")
    lines.append(f"sweep: {study.folder} (graft report, graft best)")
    return "\n".join(lines)


def failures(study: StudyRecord) -> str:
    """A table of the failed trials; empty if there are none."""
    if not study.failed:
        return ""
    rows = [("trial", "overrides", "reason")]
    for trial in study.failed:
        first, *rest = trial.reason.splitlines() or [""]
        rows += [(str(trial.number), _choices(trial), first), *(("", "", line) for line in rest)]
    return "\n".join([
        f"{len(study.failed)} of {len(study.trials)} trials failed:",
        *(f"  {line}" for line in aligned(rows, right=[0])),
        "the same command with hydra.sweeper.retry_failed=true tries them again",
    ])  # fmt: skip


def _line(study: StudyRecord, trial: TrialRecord) -> str:
    values = ", ".join(f"{each.metric} {value:.6g}" for each, value in zip(study.objectives, trial.values, strict=True))
    return f"trial {trial.number} ({values}): {_choices(trial)}"


def _choices(trial: TrialRecord) -> str:
    return " ".join(f"{key}={value}" for key, value in trial.choices.items())
