"""`graft controls` on a real run: two more runs, and a report that says what the transfer was worth."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Train = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
def test_controls_are_run_once_and_reported(train: Train, images: Path, tmp_path: Path, root: Path):
    words = (
        "backbone=timm", "backbone.name=test_efficientnet", "donor=none", "freeze=none", "data=folder",
        f"data.root={images}", "data.image_size=64", "data.batch_size=8", "trainer.max_epochs=1",
    )  # fmt: skip
    donor = train(*words, f"hydra.run.dir={tmp_path / 'donor'}")
    assert donor.returncode == 0, donor.stderr
    from_donor = [word for word in words if not word.startswith(("donor", "freeze"))]
    done = train(
        *from_donor, "donor=run", f"donor.path={tmp_path / 'donor'}", "freeze=none", "++optimizer.lr_scale.head=2",
        "seed=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    code = "from graft.commands.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", code, "controls", str(run)]
    told = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    ledgers = {
        name: json.loads((run / "controls" / name / "transfer.json").read_text())["summary"]
        for name in ("random_init", "linear_probe")
    }
    assert ledgers["random_init"]["parameters_transferred_fraction"] == 0
    assert ledgers["linear_probe"]["parameters_transferred_fraction"] > 0.9
    plan = json.loads((run / "controls" / "linear_probe" / "plan.json").read_text())
    assert {group["stage"] for group in plan["groups"]} == {"head"}
    assert plan["groups"][0]["factor"] == 2
    assert "points" in told.stdout
    assert "Did the transfer help?" in (run / "report.html").read_text(encoding="utf-8")
    again = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "random_init: already in" in again.stdout
