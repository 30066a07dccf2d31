"""A trial that promises little is stopped as Optuna itself would stop it, and the ledger has it as stopped early."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from graft.config.faults import InputError
from graft.sweep.attempt import Claim, Ended
from graft.sweep.conduct import conduct
from graft.sweep.job import PARENT, TRIAL, SweepTrial, trial_of_this_job
from graft.sweep.record import Objective, StudyRecord, training_lock
from graft.sweep.samplers import make_pruner, make_sampler
from graft.sweep.space import read_space
from graft.sweep.study import read_study, summary
from graft.sweep.sweep_settings import SweepSettings
from graft.system.locks import FileLock

LOSS = (Objective(metric="val/loss", direction="min"),)
EPOCHS, TRIALS = 9, 10
SAMPLER = {"n_startup_trials": 3}
PRUNERS: dict[str, dict[str, Any]] = {
    "median": {"n_startup_trials": 3},
    "halving": {"min_resource": 1, "reduction_factor": 3},
    "hyperband": {"min_resource": 1, "max_resource": 9, "reduction_factor": 3},
    "wilcoxon": {"n_startup_steps": 2, "p_threshold": 0.1},
}


def loss(x: float, epoch: int) -> float:
    """Falls with the epochs; what is best at first is not what is best at last."""
    return (x - 4) ** 2 / 20 + (10 - x) / (epoch + 1) / 5


def told_by_optuna(pruner: str) -> list[tuple[float, list[int], bool]]:
    """Of each trial its choice, the epochs it was given, and whether it was stopped; by Optuna alone."""
    study = optuna.create_study(study_name="sweep", pruner=make_pruner(pruner, PRUNERS[pruner]))
    trials: list[tuple[float, list[int], bool]] = []
    for number in range(TRIALS):
        study.sampler = make_sampler("tpe", SAMPLER, seed=0, number=number)
        trial = study.ask()
        x, stopped = trial.suggest_float("x", 0.0, 10.0), False
        for epoch in range(EPOCHS):
            trial.report(loss(x, epoch), epoch)
            if stopped := trial.should_prune():
                break
        study.tell(trial, None if stopped else loss(x, epoch), state=_state(stopped))
        trials.append((x, list(range(epoch + 1)), stopped))
    return trials


def _state(stopped: bool) -> optuna.trial.TrialState:
    return optuna.trial.TrialState.PRUNED if stopped else optuna.trial.TrialState.COMPLETE


def sweep(folder: Path, settings: SweepSettings, *words: str) -> StudyRecord:
    """Trials that train for EPOCHS, unless they are stopped, and leave what a run leaves."""

    def launched(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Ended]]:
        for claim in claims:
            trial, x = SweepTrial(folder, claim.number), float(claim.choices["x"])
            metrics: dict[str, object] = {}
            for epoch in range(EPOCHS):
                metrics = {"val/loss": loss(x, epoch), "epochs": epoch + 1}
                if trial.should_stop(epoch, metrics):
                    metrics["pruned"] = True
                    break
            claim.folder.mkdir()
            (claim.folder / "metrics.json").write_text(json.dumps(metrics))
            yield claim, Ended()

    return conduct(folder, settings, read_space({}, words, OverridesParser.create()), launched, slots=1, say=str)


@pytest.mark.parametrize("pruner", PRUNERS)
def test_trials_are_chosen_and_stopped_as_optuna_would(tmp_path: Path, pruner: str) -> None:
    settings = SweepSettings(
        objectives=LOSS, n_trials=TRIALS, sampler_options=SAMPLER, pruner=pruner, pruner_options=PRUNERS[pruner]
    )
    study = sweep(tmp_path / "sweep", settings, "x=interval(0.0,10.0)")
    found = [(float(trial.choices["x"]), sorted(trial.steps), trial.state == "pruned") for trial in study.trials]
    assert found == told_by_optuna(pruner)
    assert 0 < sum(stopped for *_, stopped in found) < TRIALS


def test_a_stopped_trial_is_neither_complete_nor_failed_nor_best_and_is_not_run_again(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    settings = SweepSettings(objectives=LOSS, pruner="median", pruner_options={"n_startup_trials": 1}, max_failures=1)
    words = ["x=5,0,4,10"]
    study = sweep(folder, settings, *words)
    assert [(trial.choices["x"], trial.state, len(trial.steps)) for trial in study.trials] == [
        ("5", "complete", EPOCHS), ("0", "pruned", 1), ("4", "pruned", 1), ("10", "pruned", 1)
    ]  # fmt: skip
    assert [trial.values for trial in study.trials[:2]] == [(loss(5, EPOCHS - 1),), (loss(0, 0),)]
    assert [trial.attempts for trial in study.trials] == [1] * 4
    assert study.trials[1].metrics == {"val/loss": loss(0, 0), "epochs": 1.0}
    assert (study.failed, [trial.number for trial in study.best]) == ((), [0])
    assert "4 trials: 1 complete, 3 pruned" in summary(study)
    assert sweep(folder, settings, *words) == study


def watched(folder: Path, pruner: str = "median", **options: Any) -> SweepTrial:
    """Trial 0 of a sweep, while it runs."""
    settings = SweepSettings(objectives=LOSS, pruner=pruner, pruner_options=options)
    space = read_space({}, ["x=1"], OverridesParser.create())
    conduct(folder, settings, space, lambda claims: [(claims[0], Ended(elsewhere=True))], slots=1, say=str, waits=False)
    return SweepTrial(folder, 0)


def test_a_resumed_trial_repeats_epochs_and_enters_none_of_them_twice(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    first = watched(folder)
    for epoch, value in enumerate((3.0, 2.0)):
        assert not first.should_stop(epoch, {"val/loss": value})
    again = SweepTrial(folder, 0)
    for epoch, value in enumerate((9.0, 9.0, 1.0)):
        assert not again.should_stop(epoch, {"val/loss": value})
    (trial,) = read_study(folder).trials
    assert trial.steps == {0: 3.0, 1: 2.0, 2: 1.0}


def test_a_figure_that_no_epoch_has_is_told_with_those_that_it_has(tmp_path: Path) -> None:
    trial = watched(tmp_path / "sweep")
    with pytest.raises(InputError, match=r"expected a metric of each epoch, .* received val/loss; try val/los,"):
        trial.should_stop(0, {"val/los": 1.0, "epoch": 0})


@pytest.mark.parametrize(("ranks", "locked"), [({}, True), ({"RANK": "1", "LOCAL_RANK": "1"}, False)])
def test_every_process_of_a_job_has_the_watcher_and_the_first_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: Mapping[str, str], locked: bool
) -> None:
    folder = tmp_path / "sweep"
    watched(folder)
    for name, value in {TRIAL: f"{folder}:0", **ranks}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(PARENT, raising=False)
    lock = FileLock(training_lock(folder, 0))
    with trial_of_this_job() as trial:
        assert trial is not None
        assert (trial.folder, trial.number) == (folder, 0)
        assert lock.try_acquire() is not locked


def test_options_of_a_grids_pruner_are_checked_before_any_trial(tmp_path: Path) -> None:
    settings = SweepSettings(objectives=LOSS, pruner="median", pruner_options={"startup": 3})
    with pytest.raises(InputError, match=r"pruner_options for median: expected .*, received startup; try n_startup_"):
        sweep(tmp_path / "sweep", settings, "x=1,2")
    assert not (tmp_path / "sweep").exists()
