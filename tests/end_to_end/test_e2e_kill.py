"""SIGKILL, a few times: scripts/kill_and_resume.py at small scale."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_five_kills_leave_no_bit_different():
    done = subprocess.run(
        [sys.executable, "scripts/kill_and_resume.py", "--kills", "5"],
        cwd=ROOT, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "| in all | 5 | 5 | 0 | 0 |"
