"""Where a run's time goes: the second run of a process has imported nothing."""

from __future__ import annotations

import subprocess
import sys

CODE = """
from graft.system.clock import Clock
first, second = Clock(), Clock()
with second("fit"):
    pass
with second("fit"):
    pass
import time
now = time.perf_counter()
gap = first.since_command(now + 7.0) - second.since_command(now)
print(abs(gap - 7.0 - first.seconds["import"]) < 0.5, second.since_command(now) < 5.0)
print(sorted(first.seconds), sorted(second.seconds), first.seconds["import"] > 0)
"""


def test_importing_counts_in_the_first_run_of_a_process_only() -> None:
    said = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.split("\n")[:2] == ["True True", "['import'] ['fit'] True"]
