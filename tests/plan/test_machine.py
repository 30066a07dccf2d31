"""What graft asks of the machine's memory."""

import platform
import resource

import pytest
import torch

from graft.machine import denormals_as_zero, keep_freed_memory

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


def test_numbers_too_small_for_a_float_count_as_zero_for_a_while() -> None:
    def halved() -> float:
        return float(torch.tensor(2e-38) * 0.5)

    assert halved() == pytest.approx(1e-38)
    with denormals_as_zero():
        assert halved() == 0
        with denormals_as_zero():
            assert halved() == 0
        assert halved() == 0
    assert halved() == pytest.approx(1e-38)
    with pytest.raises(ValueError, match="amid"), denormals_as_zero():
        raise ValueError("amid")
    assert halved() > 0
