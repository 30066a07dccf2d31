"""Hydra's own way to tell the callbacks of `hydra.callbacks` about a job, which `run_job` wants and Hydra has no public
name for: the one place where graft uses a name of `hydra._internal`. `pyproject.toml` bounds Hydra's release for it.
"""

from __future__ import annotations

import sys
from typing import Any

from omegaconf import DictConfig, OmegaConf


def callbacks_of(config: DictConfig) -> Any:
    """Those that the config names; where the installed Hydra has them elsewhere, none, which is said."""
    try:
        from hydra._internal.callbacks import Callbacks
    except ImportError:
        if OmegaConf.select(config, "hydra.callbacks"):
            print("hydra.callbacks are not called: this release of Hydra has them elsewhere; try Hydra 1.3, or"
                  " hydra/launcher=basic", file=sys.stderr)  # fmt: skip
        return NoCallbacks()
    return Callbacks(config)


class NoCallbacks:
    """Has what `run_job` calls."""

    def on_job_start(self, config: DictConfig, **others: Any) -> None: ...

    def on_job_end(self, config: DictConfig, **others: Any) -> None: ...
