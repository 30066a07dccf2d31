"""What graft asks of the machine's memory and arithmetic."""

import platform
import resource
from collections.abc import Generator

import pytest
import torch

from graft.system.machine import denormals_as_zero, full_float32, keep_freed_memory

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


@pytest.fixture
def short_products() -> Generator[None]:
    """Every product of float32 numbers may be computed of shorter ones."""
    before, of_convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = of_convolutions


@pytest.mark.usefixtures("short_products")
def test_float32_has_all_its_digits_for_a_while() -> None:
    def settings() -> tuple[object, ...]:
        return (
            torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32, torch.is_autocast_enabled("cpu"),
        )  # fmt: skip

    matrix = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    expected = (matrix.double() @ matrix.double()).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = settings()
        assert (matrix @ matrix).dtype == torch.bfloat16
        with full_float32("cpu"):
            torch.testing.assert_close(matrix @ matrix, expected, rtol=1e-5, atol=1e-5)
            assert settings() == ("highest", False, False, False)
        assert settings() == before == ("medium", True, True, True)
        with pytest.raises(ValueError, match="amid"), full_float32("cpu"):
            raise ValueError("amid")
        assert settings() == before


def test_settings_of_the_newer_kind_are_kept_too() -> None:
    products = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    try:
        products.fp32_precision = "bf16"
        with full_float32("cpu"):
            assert products.fp32_precision == "ieee"
        assert products.fp32_precision == "bf16"
    finally:
        products.fp32_precision = before
