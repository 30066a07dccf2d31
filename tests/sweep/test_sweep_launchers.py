"""A launcher of another's hands over all jobs at once, which the ledger does not: that is said."""

from types import SimpleNamespace

import pytest

from hydra_plugins.graft_sweep import one_at_a_time


@pytest.mark.parametrize(
    ("chosen", "launcher", "note"),
    [
        ("joblib", SimpleNamespace(), "note      hydra/launcher=joblib runs these trials one after the other"),
        ("basic", SimpleNamespace(), ""),
        ("workers", SimpleNamespace(slots=2), ""),
        ("slurm", SimpleNamespace(each=print, queueing=print), ""),
    ],
)
def test_trials_in_turn_under_a_launcher_that_could_run_several_are_noted(
    chosen: str, launcher: SimpleNamespace, note: str
) -> None:
    assert one_at_a_time(launcher, chosen).startswith(note)
    assert bool(one_at_a_time(launcher, chosen)) is bool(note)
