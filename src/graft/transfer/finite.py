"""Whether values are finite: told from their sum, which reads them once and makes no copy."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

import torch
from torch import Tensor


def is_finite(value: Tensor) -> bool:
    """Whether no value is NaN or infinite. A finite sum has only finite terms; another may have overflowed."""
    if not (value.is_floating_point() or value.is_complex()):
        return True
    summable = value.float() if value.element_size() == 1 else value  # torch cannot add the 8-bit formats
    return isfinite(abs(summable.sum().item())) or bool(torch.isfinite(summable).all())


def are_finite(values: Iterable[Tensor]) -> bool:
    return all(map(is_finite, values))


def count_unsound(value: Tensor) -> tuple[int, int]:
    """How many values are NaN and how many infinite."""
    wide = value.float() if value.element_size() == 1 else value
    return int(torch.isnan(wide).sum()), int(torch.isinf(wide).sum())
