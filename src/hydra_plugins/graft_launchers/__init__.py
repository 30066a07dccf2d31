"""hydra/launcher=process, workers, gpus and slurm: jobs in other processes. Hydra imports this at every start."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from graft.sweep.attempt import Ended
    from graft.sweep.children import Prepared


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
        self.task = task_function.__name__
        self.config = config
        self.children = Children(timeout_min=self.timeout_min)

    def close(self) -> None:
        """Ends what stays between jobs; called when none runs any more."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """One after the other; a sweeper that wants several at once calls from as many threads as there are slots."""
        return [self._run(list(overrides), number) for number, overrides in enumerate(job_overrides, initial_job_idx)]

    def _run(self, overrides: list[str], number: int) -> JobReturn:
        from graft.system.processes import AT_ONCE

        cfg, run = self._prepared(overrides, number)
        env = {AT_ONCE: str(self.slots), **run.env}
        ended = self._ended(cfg, run, env)
        return _job_return(overrides, cfg, run.folder, ended)

    def _ended(self, cfg: DictConfig, run: Prepared, env: dict[str, str]) -> Ended:
        """Runs the job to its end."""
        return self.children.run(run.command, run.folder, env)

    def _prepared(self, overrides: list[str], number: int) -> tuple[DictConfig, Prepared]:
        """The job's config, and its run as a command with a folder and an environment: a single run in either."""
        from graft.sweep.children import Prepared, repeated_command

        with self._composing:
            cfg = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
            with open_dict(cfg):
                cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
            sweep = Path(str(cfg.hydra.sweep.dir)).absolute()
            folder = sweep / str(cfg.hydra.sweep.subdir)
            env = {str(name): str(value) for name, value in cfg.hydra.job.env_set.items()}
            cfg.hydra.mode, cfg.hydra.run.dir, cfg.hydra.sweep.dir = RunMode.RUN, str(folder), str(sweep)
        words = [*map(str, cfg.hydra.overrides.hydra), *map(str, cfg.hydra.overrides.task)]
        command = repeated_command(words, folder=folder, sweep=sweep, number=number)
        run = Prepared(
            command=command, folder=folder, env=env, processes=cfg.trainer.devices, nodes=cfg.trainer.num_nodes
        )
        return cfg, run


class WorkersLauncher(ProcessLauncher):
    """Processes that stay: each imports once, and a crash costs one job only."""

    def __init__(self, n_jobs: int = 2, timeout_min: float | None = None) -> None:
        super().__init__(n_jobs, timeout_min)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from graft.sweep.workers import Workers

        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.workers = Workers(timeout_min=self.timeout_min)

    def close(self) -> None:
        self.workers.close()

    def _ended(self, cfg: DictConfig, run: Prepared, env: dict[str, str]) -> Ended:
        from graft.config.hydra_job import packed
        from graft.sweep.children import this_program
        from graft.sweep.workers import Job

        if run.processes * run.nodes > 1:  # it has its own
            return super()._ended(cfg, run, env)
        return self.workers.run(Job(program=this_program(), task=self.task, config=packed(cfg)), run.folder, env)


class GpusLauncher(WorkersLauncher):
    """As many processes as there are GPUs, each of which stays and sees one.

    Args:
        devices: as CUDA_VISIBLE_DEVICES writes them; null: all that this process may see.
    """

    def __init__(self, devices: Sequence[Any] | None = None, timeout_min: float | None = None) -> None:
        super().__init__(timeout_min=timeout_min)
        self.devices = devices

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from graft.sweep.children import Children, visible_devices
        from graft.sweep.workers import Workers

        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        devices = visible_devices(self.devices)
        self.workers = Workers(timeout_min=self.timeout_min, devices=devices)
        self.children = Children(timeout_min=self.timeout_min, devices=devices)
        self.slots = len(devices)


class SlurmLauncher(ProcessLauncher):
    """Each job a job of SLURM's, all of them together an array; `graft.cluster.slurm_settings` has the keys."""

    def __init__(self, **settings: Any) -> None:
        from graft.config.hydra_job import plain_settings

        super().__init__()
        self.slurm = plain_settings(settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from graft.cluster.slurm_settings import read_slurm_settings
        from graft.cluster.submission import check_installed

        self.hydra_context = hydra_context
        self.config = config
        self.settings = read_slurm_settings(self.slurm)
        self.plans = OmegaConf.select(config, "mode") == "plan"
        check_installed(submits=not self.plans)

    def queueing(self, *, grid: bool) -> dict[str, Any]:
        """What the sweep must know: a grid is handed over at once, of a search as many trials as run together."""
        from graft.cluster.record import has_open_job
        from graft.cluster.submission import MOST

        return {
            "batch": MOST if grid else self.settings.array_parallelism,
            "has_job": lambda claim: has_open_job(claim.folder),
            "waits": not self.settings.detach,
        }

    def each(self, jobs: Mapping[int, Sequence[str]]) -> Iterator[tuple[int, Ended]]:
        """Each job's number and end, as they come."""
        return self._follow({number: self._prepared(list(overrides), number)[1] for number, overrides in jobs.items()})

    def _follow(self, runs: dict[int, Prepared]) -> Iterator[tuple[int, Ended]]:
        from graft.cluster.follow import follow

        return follow(runs, self.settings, self._sweep, lambda line: print(line, flush=True))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """What Hydra's own sweeper calls, and who wants a plan."""
        from graft.sweep.attempt import Ended

        jobs = {number: list(overrides) for number, overrides in enumerate(job_overrides, initial_job_idx)}
        prepared = {number: self._prepared(overrides, number) for number, overrides in jobs.items()}
        runs = {number: run for number, (_, run) in prepared.items()}
        if self.plans:
            self._show(runs)
        ends = {} if self.plans else dict(self._follow(runs))
        return [
            _job_return(jobs[number], cfg, run.folder, ends.get(number, Ended()))
            for number, (cfg, run) in prepared.items()
        ]

    @property
    def _sweep(self) -> Path:
        return Path(str(self.config.hydra.sweep.dir)).absolute()

    def _show(self, runs: dict[int, Prepared]) -> None:
        import shlex

        from graft.cluster.submission import sbatch_files

        for text, numbers in sbatch_files(runs, self.settings, self._sweep):
            print(text)
            for number in numbers:
                words = (word for word in runs[number].command if word != "mode=plan")
                print(f"# trial {number}: {shlex.join(words)}")


def _job_return(overrides: list[str], cfg: DictConfig, folder: Path, ended: Ended) -> JobReturn:
    from graft.sweep.attempt import Interrupted

    job = JobReturn(overrides=filter_overrides(overrides), cfg=cfg, working_dir=str(folder))
    job.status = JobStatus.FAILED if ended.reason or ended.interrupted else JobStatus.COMPLETED
    if job.status == JobStatus.FAILED:
        job.return_value = Interrupted() if ended.interrupted else CompactHydraException(ended.reason)
    return job
