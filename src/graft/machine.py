"""This machine: what it is called, how many of its threads a computation takes, and what becomes of freed memory."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Generator
from contextlib import contextmanager

import torch

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # mallopt(3)
_DENORMAL = 1e-39
_GROWTH = 64 * 2**20  # bytes by which the heap grows at least


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


@contextmanager
def denormals_as_zero() -> Generator[None]:
    """Numbers below 1e-38 count as zero in this thread's arithmetic: what the moments of a unit that has died decay to,
    and what a processor takes many times as long for.
    """
    were_zero = bool(torch.tensor(_DENORMAL) * 0.5 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(were_zero)


def keep_freed_memory() -> None:
    """From now on, memory that this process frees is used again by it rather than handed back to the system.

    glibc maps every block above 32 MB anew and unmaps it when it is freed, so that each activation of a step on the CPU
    is filled with zeros by the system, page by page, before it is written. A process then holds as much as it needed at
    its peak. Elsewhere than with glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _GROWTH)):
            mallopt(parameter, value)
