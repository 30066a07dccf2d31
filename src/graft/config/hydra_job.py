"""A job that Hydra has composed, carried out in another process: its config as text, and `run_job` there."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from graft.config.command_line import check_command_line
from graft.config.compose import register
from graft.config.data_kind import with_data_kind
from graft.config.faults import ConfigError
from graft.config.hydra_callbacks import callbacks_of
from graft.config.own_configs import conf_folder


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


def run_words(words: Sequence[str], action: Callable[[DictConfig, Path, list[str]], None]) -> None:
    """Composes graft's config with these words and does the action as Hydra does a job, with the run's .hydra/ written;
    logging is left as it is. Raises what the action raises.

    Args:
        action: called with the composed config, the run's folder and the words.

    Raises:
        ConfigError: every mistake in the words.
    """
    conf, words = conf_folder(), with_data_kind(words)
    register()
    if faults := check_command_line(words, conf):
        raise ConfigError(faults)
    with initialize_config_dir(str(conf), job_name="train", version_base="1.3"):
        config = compose("config", list(words), return_hydra_config=True)
    JobRuntime.instance().set("name", config.hydra.job.name)
    job = run_job(
        task_function=lambda composed: action(composed, Path(HydraConfig.get().runtime.output_dir), list(words)),
        config=config, job_dir_key="hydra.run.dir", job_subdir_key=None, configure_logging=False,
        hydra_context=HydraContext(config_loader=None, callbacks=callbacks_of(config)),  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    _ = job.return_value


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that Hydra gives to a plugin, without OmegaConf's containers."""
    return {
        name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for name, value in settings.items()
    }
