"""Submits a sweep's trials to SLURM by submitit, with one array for all trials that request the same resources."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from graft.cluster.record import JobRecord, write_record
from graft.cluster.slurm_settings import SlurmSettings
from graft.cluster.slurm_task import SlurmTask
from graft.cluster.submitit_text import text_for_sbatch
from graft.config.faults import InputError, one_line
from graft.sweep.children import Prepared

LOGS = "slurm"
"""Subfolder of the sweep with the sbatch files and the jobs' own output."""
MOST = 500
"""Maximum number of jobs in an array. SLURM's MaxArraySize is 1001 by default."""


def check_installed(*, submits: bool) -> None:
    """Raises InputError if jobs cannot be submitted, or (without `submits`) not even shown."""
    if importlib.util.find_spec("submitit") is None:
        raise InputError(
            "hydra/launcher=slurm: expected the package submitit, received none; try pip install"
            " 'graft-transfer[cluster]'"
        )
    for program in ("sbatch", "squeue", "srun") if submits else ():
        if shutil.which(program) is None:
            raise InputError(
                f"hydra/launcher=slurm: expected SLURM's {program} on this machine, received none; try it on a login"
                " node of the cluster, or hydra/launcher=process, or a SLURM of one node: bash scripts/local_slurm.sh"
                " start"
            )


def submit(
    runs: Mapping[int, Prepared], settings: SlurmSettings, sweep: Path
) -> Iterator[tuple[str, dict[int, JobRecord]]]:
    """Submits the runs, and records each job in the folder of its run.

    Yields the id of each array with its jobs as soon as SLURM has accepted it.

    Raises:
        InputError: SLURM refuses the jobs.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

    for alike in _alike(runs):
        some = next(iter(alike.values()))
        executor = _executor(settings, some, sweep)
        tasks = [_task(run, settings) for run in alike.values()]
        try:
            with executor.batch():
                jobs = [executor.submit(task) for task in tasks]
        except (FailedJobError, FailedSubmissionError, UncompletedJobError) as error:
            raise InputError(
                f"hydra/launcher=slurm: expected jobs that SLURM takes, received its answer: {one_line(error)};"
                " try mode=plan, which shows the file for sbatch, or sinfo, which lists the partitions"
            ) from None
        records = {
            number: JobRecord(job=job.job_id, log=str(job.paths.stderr))
            for number, job in zip(alike, jobs, strict=True)
        }
        for number, record in records.items():
            write_record(runs[number].folder, record)
        yield next(iter(records.values())).job.partition("_")[0], records


def sbatch_files(runs: Mapping[int, Prepared], settings: SlurmSettings, sweep: Path) -> Iterator[tuple[str, list[int]]]:
    """The text of each sbatch file, with the numbers of the runs that it starts. SLURM is not needed."""
    for alike in _alike(runs):
        executor = _executor(settings, next(iter(alike.values())), sweep)
        if len(alike) > 1:
            executor.parameters["map_count"] = len(alike)
        yield text_for_sbatch(executor), list(alike)


def _alike(runs: Mapping[int, Prepared]) -> Iterator[dict[int, Prepared]]:
    """Groups of runs with the same numbers of nodes and processes, none larger than an array may be."""

    def asks(number: int) -> tuple[int, int]:
        return runs[number].nodes, runs[number].processes

    for _, group in groupby(sorted(runs, key=lambda number: (asks(number), number)), asks):
        numbers = list(group)
        for start in range(0, len(numbers), MOST):
            yield {number: runs[number] for number in numbers[start : start + MOST]}


def _task(run: Prepared, settings: SlurmSettings) -> SlurmTask:
    return SlurmTask(command=run.command, folder=run.folder, env=run.env, max_requeues=settings.max_requeues)


def _executor(settings: SlurmSettings, run: Prepared, sweep: Path) -> Any:
    from submitit import SlurmExecutor

    class Executor(SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:  # a machine without SLURM can show a plan; `check_installed` judges before submitting
            return 2

    executor = Executor(folder=sweep / LOGS)
    executor.update_parameters(**_parameters(settings, run, sweep))
    return executor


def _parameters(settings: SlurmSettings, run: Prepared, sweep: Path) -> dict[str, Any]:
    """The arguments of submitit's executor."""
    if settings.gpus_per_node not in (None, run.processes):
        raise InputError(
            f"hydra.launcher.gpus_per_node: expected one a process (trainer.devices={run.processes}), received"
            f" {settings.gpus_per_node}; try hydra.launcher.gpus_per_node={run.processes}"
        )
    parameters = {
        "job_name": sweep.name,
        "partition": settings.partition,
        "account": settings.account,
        "time": settings.time_min,
        "nodes": run.nodes,
        "ntasks_per_node": run.processes,
        "gpus_per_node": settings.gpus_per_node,
        "cpus_per_task": settings.cpus_per_task,
        "mem": None if settings.mem_gb is None else f"{round(1024 * settings.mem_gb)}M",
        "array_parallelism": settings.array_parallelism,
        "setup": list(settings.setup) or None,
        "signal_delay_s": settings.notice_s,
        "additional_parameters": {"requeue": True, **settings.sbatch},
        # A process that fails takes the others of its job with it; and srun does not pass on sbatch's cores by itself.
        "srun_args": [
            "--kill-on-bad-exit=1",
            *([f"--cpus-per-task={settings.cpus_per_task}"] if settings.cpus_per_task else []),
        ],
    }
    return {name: value for name, value in parameters.items() if value is not None}
