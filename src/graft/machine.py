"""This machine: what it is called, and how many of its threads a computation takes."""

from __future__ import annotations

import platform
from collections.abc import Generator
from contextlib import contextmanager

import torch


def processor() -> str:
    """The model's name where the system tells it (Linux), else what Python knows."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@contextmanager
def threads(count: int | None) -> Generator[None]:
    """torch shares its arithmetic out to so many threads; null: to as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
