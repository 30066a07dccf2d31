"""What graft asks of the machine's memory."""

import platform
import resource

import torch

from graft.machine import keep_freed_memory

FLOATS = 10 * 2**20  # 40 MB


def faults() -> int:
    """Pages that the system had to provide for a tensor of 40 MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(FLOATS)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_used_again() -> None:
    keep_freed_memory()
    counts = [faults() for _ in range(24)]  # the first leave scraps between them, for which the next are too large
    if platform.libc_ver()[0] == "glibc":
        assert max(counts[-8:]) < 4 * FLOATS // resource.getpagesize() / 10
