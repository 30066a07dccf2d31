"""Workers of one study, killed while it runs: nothing is lost, nothing done twice, and nobody else dies of it."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("store", ["journal", "sqlite"])
def test_killed_workers_cost_no_trial(root: Path, store: str) -> None:
    words = ("--store", store, "--trials", "24", "--workers", "3", "--every", "5")
    done = subprocess.run(
        [sys.executable, "scripts/kill_sweeps.py", *words], cwd=root, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    first, *counts = done.stdout.splitlines()
    assert first.startswith("24 trials, 3 workers, ")
    assert [line.split()[-1] for line in counts] == ["0", "0", "0", "0"]
