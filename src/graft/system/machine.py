"""This machine: its processor, the threads and precision of computations, and the handling of freed memory."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # mallopt(3)
_DENORMAL = 1e-39
_GROWTH = 64 * 2**20  # bytes by which the heap grows at least


def processor() -> str:
    """The model name of the processor on Linux, otherwise what Python reports."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@contextmanager
def threads(count: int | None) -> Generator[None]:
    """Limits torch to this many threads; None: no change."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def denormals_as_zero() -> Generator[None]:
    """Treats numbers below 1e-38 as zero in this thread's arithmetic. The optimizer's moments of a dead unit decay to
    such numbers, with which a processor is many times slower."""
    were_zero = bool(torch.tensor(_DENORMAL) * 0.5 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(were_zero)


@contextmanager
def full_float32(device: torch.device | str) -> Generator[None]:
    """float32 arithmetic in full precision: no autocast, and no products of TF32 or bfloat16 numbers inside.

    An exported network is a function in float32, and everything reported about it is computed in this context. By
    default, torch computes convolutions on NVIDIA GPUs in TF32, with the precision of float16.
    `torch.set_float32_matmul_precision` can reduce that of matrix products in the same way, also on CPUs.
    """
    products = _products()
    before, of_old_kind = [product.fp32_precision for product in products], _settings_of_old_kind()
    with torch.autocast(torch.device(device).type, enabled=False):
        _set_of_old_kind("highest", False)
        for product in products:
            product.fp32_precision = "ieee"
        try:
            yield
        finally:
            if of_old_kind is not None:
                _set_of_old_kind(*of_old_kind)
            for product, precision in zip(products, before, strict=True):
                product.fp32_precision = precision


def _products() -> tuple[Any, ...]:
    """What torch 2.9 and later have a setting of their own for, which goes before the one for all."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return ()
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    return (backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn)


def _settings_of_old_kind() -> tuple[str, bool] | None:
    """None where settings of the newer kind say what these have no words for."""
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return None


def _set_of_old_kind(of_matrices: str, tf32_in_convolutions: bool) -> None:
    torch.set_float32_matmul_precision(of_matrices)
    torch.backends.cudnn.allow_tf32 = tf32_in_convolutions


def keep_freed_memory() -> None:
    """From now on, this process keeps freed memory for reuse instead of returning it to the system.

    glibc maps every block above 32 MB separately and unmaps it when it is freed, so the system zeroes the memory of
    each activation of a step on the CPU page by page before it is written. With this setting, a process keeps its peak
    memory. It has no effect without glibc.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _GROWTH)):
            mallopt(parameter, value)
