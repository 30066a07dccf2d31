"""Every trial is accounted for, of which some fail and some are preempted, however many there are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from graft.sweep.attempt import Claim, Ended, Interrupted
from graft.sweep.conduct import conduct
from graft.sweep.record import Objective
from graft.sweep.space import read_space
from graft.sweep.sweep_settings import SweepSettings

REASON = "its process was killed by SIGKILL: out of memory, or by hand"
SPACES = {"grid": ["x=range(0,{trials})"], "random": ["x=interval(0.0,1.0)"]}


@pytest.mark.parametrize(
    ("kind", "trials"),
    [("grid", 60), ("random", 60), *(pytest.param(kind, 1000, marks=pytest.mark.slow) for kind in SPACES)],
)
def test_a_tenth_fails_and_a_fifth_is_preempted(tmp_path: Path, kind: str, trials: int) -> None:
    """A preempted trial stops the sweep's process, as a cluster does, and the same command goes on."""
    folder = tmp_path / "sweep"
    space = read_space({}, [word.format(trials=trials) for word in SPACES[kind]], OverridesParser.create())
    objectives = (Objective(metric="loss", direction="min"),)
    settings = SweepSettings(objectives=objectives, n_trials=trials if kind == "random" else None, sampler="random")
    begun: Counter[int] = Counter()

    def launch(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Ended]]:
        for claim in claims:
            begun[claim.number] += 1
            if claim.number % 5 == 2 and claim.attempts == 1:
                yield claim, Ended(interrupted=True)
            elif claim.number % 10 == 7:  # preempted before
                yield claim, Ended(reason=REASON)
            else:
                claim.folder.mkdir(parents=True)
                (claim.folder / "metrics.json").write_text(json.dumps({"loss": abs(claim.number - trials / 2)}))
                yield claim, Ended()

    stopped = 0
    while True:
        try:
            study = conduct(folder, settings, space, launch, slots=1, say=str)
            break
        except Interrupted:
            stopped += 1
    assert stopped == trials // 5
    assert [trial.number for trial in study.trials] == list(range(trials))
    assert begun == {number: 2 if number % 5 == 2 else 1 for number in range(trials)}
    assert {trial.number: trial.attempts for trial in study.trials} == begun
    failed = {trial.number for trial in study.trials if trial.state == "failed"}
    assert failed == set(range(7, trials, 10))
    assert {trial.reason for trial in study.failed} == {REASON}
    assert [trial.values for trial in study.complete] == [
        (abs(number - trials / 2),) for number in range(trials) if number not in failed
    ]
    assert [trial.number for trial in study.best] == [trials // 2]
    assert len({trial.choices["x"] for trial in study.trials}) == trials
