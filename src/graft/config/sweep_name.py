"""A sweep's folder is named after its command, so that the same command finds it again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from omegaconf import OmegaConf

LONGEST = 60


def sweep_name(overrides: Iterable[str], sweeper: str) -> str:
    """What is varied, to read, and a hash of everything that was typed, in whatever order.

    Overrides of Hydra itself (more trials, another launcher) are left out: with them it is the same sweep still.
    """
    lines = sorted(str(override) for override in overrides)
    varied = [line.partition("=")[0].lstrip("+").rpartition(".")[2] for line in lines if re.search(r"[,(]", line)]
    digest = hashlib.sha256("\n".join([sweeper, *lines]).encode()).hexdigest()[:8]
    words = re.sub(r"[^\w+]", "_", "+".join(varied))[:LONGEST]
    return f"{words}-{digest}" if words else digest


def register_sweep_name() -> None:
    """Makes ${sweep_name:…} known to the config."""
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
