"""A launcher of another's hands over all jobs at once, which the ledger does not: that is said."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from hydra_plugins.graft_sweep import GridSweeper


@pytest.mark.parametrize(
    ("chosen", "launcher", "told"),
    [
        ("joblib", SimpleNamespace(), "note      hydra/launcher=joblib runs these trials one after the other"),
        ("basic", SimpleNamespace(), ""),
        ("workers", SimpleNamespace(slots=2), ""),
        ("slurm", SimpleNamespace(each=print), ""),
    ],
)
def test_trials_in_turn_under_a_launcher_that_could_run_several_are_told(
    chosen: str, launcher: SimpleNamespace, told: str
) -> None:
    sweeper = GridSweeper()
    sweeper.config = OmegaConf.create({"hydra": {"runtime": {"choices": {"hydra/launcher": chosen}}}})
    sweeper.launcher = launcher
    assert sweeper._in_turn().startswith(told)
    assert bool(sweeper._in_turn()) is bool(told)
