"""hydra/launcher=process and hydra/launcher=gpus: each job in its own process. Hydra imports this at every start."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class ProcessLauncher(Launcher):
    """A crash costs one job only.

    Args:
        n_jobs: processes at once.
        timeout_min: minutes that a job may take; null: as long as it likes.
    """

    def __init__(self, n_jobs: int = 1, timeout_min: float | None = None) -> None:
        self.slots = n_jobs
        self.timeout_min = timeout_min
        self._composing = threading.Lock()  # Hydra composes one config at a time

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from graft.sweep.children import Children, check_settings

        check_settings(n_jobs=self.slots, timeout_min=self.timeout_min)
        self.hydra_context = hydra_context
        self.config = config
        self.children = Children(timeout_min=self.timeout_min)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """One after the other; a sweeper that wants several at once calls from as many threads as there are slots."""
        return [self._run(list(overrides), number) for number, overrides in enumerate(job_overrides, initial_job_idx)]

    def _run(self, overrides: list[str], number: int) -> JobReturn:
        from graft.sweep.attempt import Interrupted
        from graft.sweep.children import repeated_command

        with self._composing:
            cfg = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
            with open_dict(cfg):
                cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
            sweep = Path(str(cfg.hydra.sweep.dir)).absolute()
            folder = sweep / str(cfg.hydra.sweep.subdir)
            given = OmegaConf.to_container(cfg.hydra.overrides)
            env = {str(name): str(value) for name, value in cfg.hydra.job.env_set.items()}
        command = repeated_command([*given["hydra"], *given["task"]], folder=folder, sweep=sweep, number=number)
        ended = self.children.run(command, folder, env)
        job = JobReturn(overrides=filter_overrides(overrides), cfg=cfg, working_dir=str(folder))
        job.status = JobStatus.FAILED if ended.reason or ended.interrupted else JobStatus.COMPLETED
        if job.status == JobStatus.FAILED:
            job._return_value = Interrupted() if ended.interrupted else RuntimeError(ended.reason)
        return job


class GpusLauncher(ProcessLauncher):
    """As many processes as there are GPUs, each of which sees one.

    Args:
        devices: as CUDA_VISIBLE_DEVICES writes them; null: all that this process may see.
    """

    def __init__(self, devices: Sequence[Any] | None = None, timeout_min: float | None = None) -> None:
        super().__init__(timeout_min=timeout_min)
        self.devices = devices

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from graft.sweep.children import Children, visible_devices

        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        found = visible_devices(self.devices)
        self.children = Children(timeout_min=self.timeout_min, devices=found)
        self.slots = len(found)
