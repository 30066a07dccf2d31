"""A job that Hydra has composed, carried out in another process: its config as text, and `run_job` there."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Mapping
from typing import Any

from hydra.core.utils import JobRuntime, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from graft.config.hydra_callbacks import callbacks_of


def packed(config: DictConfig) -> str:
    """The composed config, Hydra's own part included, as a word of ASCII; for a process of this very sweep."""
    return base64.b64encode(pickle.dumps(config)).decode()


def run_packed(task: TaskFunction, packed_config: str) -> None:
    """Does the job as Hydra's own launchers do theirs; raises what the task raises."""
    config: DictConfig = pickle.loads(base64.b64decode(packed_config))
    JobRuntime.instance().set("name", config.hydra.job.name)
    context = HydraContext(config_loader=None, callbacks=callbacks_of(config))  # pyright: ignore[reportArgumentType]
    job = run_job(
        task_function=task, config=config, job_dir_key="hydra.run.dir", job_subdir_key=None, hydra_context=context
    )
    _ = job.return_value


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that Hydra gives to a plugin, without OmegaConf's containers."""
    return {
        name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for name, value in settings.items()
    }
