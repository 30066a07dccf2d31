"""Measures the time of each stage of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


class Clock:
    """Seconds by stage. In the first run of a process, the time since the process started counts as `import`."""

    _imported = False

    def __init__(self) -> None:
        self._before = 0.0 if Clock._imported else _age_of_process()
        self._began = time.perf_counter()
        self.seconds: dict[str, float] = {} if Clock._imported else {"import": round(self._before, 3)}
        Clock._imported = True

    @contextmanager
    def __call__(self, stage: str) -> Generator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - began, 3)

    def since_command(self, moment: float) -> float:
        """Seconds from the command (in a later run of a process: from the run's start) to a moment of
        `perf_counter`."""
        return round(self._before + moment - self._began, 3)


def _age_of_process() -> float:
    """Seconds since this process started, from Linux; on other systems the processor time that it has used."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.process_time()

    return uptime - ticks / os.sysconf("SC_CLK_TCK")
