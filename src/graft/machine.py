"""What this machine is called, for what is measured on it."""

from __future__ import annotations

import platform


def processor() -> str:
    """The model's name where the system tells it (Linux), else what Python knows."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
