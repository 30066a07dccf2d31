"""`python -m pytest` in this folder."""

from __future__ import annotations

from pathlib import Path

import graft


def test_the_experiment_trains(tmp_path: Path) -> None:
    run = graft.train("experiment=first", "trainer.max_epochs=1", folder=tmp_path / "run", quiet=True)
    assert run.metrics["epochs"] == 1
    assert run.model.classes == ("circle", "square")


def test_the_network_has_three_stages_and_a_head() -> None:
    plan = graft.plan("experiment=first", "backbone.kwargs={width: 4}")
    assert [stage["name"] for stage in plan.record["stages"]] == ["stem", "layer1", "layer2", "head"]
