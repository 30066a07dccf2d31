"""Where there is no GPU, torch need not look for one at each step."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import torch

VARIABLE = "PYTORCH_NVML_BASED_CUDA_CHECK"


@contextmanager
def known_to_be_none() -> Generator[None]:
    """Within it, torch remembers that this machine has no GPU; where there is one, nothing changes.

    Optimizers ask at each step whether there is a GPU. Lightning has torch ask the driver's library (NVML), so that
    CUDA is not initialised by the question, and where that library is missing it is searched for each time: 0.7 ms a
    step. CUDA's own count is taken once for ever, and without a GPU it initialises nothing.
    """
    before = os.environ.get(VARIABLE)
    if torch.cuda.is_available() or before is None:
        yield
        return
    os.environ[VARIABLE] = "0"
    try:
        yield
    finally:
        os.environ[VARIABLE] = before
