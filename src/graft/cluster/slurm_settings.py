"""The settings under `hydra.launcher` for hydra/launcher=slurm, as typed values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from graft.config.faults import ConfigError, Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmSettings:
    """The keys of hydra/launcher=slurm.

    The run's own keys set the nodes and processes: trainer.num_nodes nodes with trainer.devices processes each.
    """

    partition: str | None = None
    """The partition in which the jobs run. Null: the cluster's default."""
    account: str | None = None
    """The account to which the jobs are charged. Null: the user's default."""
    time_min: int = 60
    """Time limit of a job in minutes. Shortly before it, the job saves its state and is queued again."""
    gpus_per_node: int | None = None
    """GPUs per node, one per process: the same number as trainer.devices. Null: none."""
    cpus_per_task: int | None = None
    """Cores per process, including those for its data-loader workers. Null: the cluster's default."""
    mem_gb: float | None = None
    """Memory per node in GB. Null: the cluster's default."""
    array_parallelism: int = 16
    """Number of jobs of an array that run at once; in a search, also the number of trials submitted together."""
    setup: tuple[str, ...] = ()
    """Shell commands to execute before the run: module load …, source venv/bin/activate."""
    sbatch: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further flags of sbatch, without dashes: {constraint: a100, qos: high}."""
    notice_s: int = 120
    """Seconds between the signal to save and the time limit. A step, and a batch of an evaluation, must be shorter."""
    max_requeues: int = 100
    """Number of restarts after which a job at its time limit is not queued again. Preemptions count too."""
    detach: bool = False
    """Return after submitting. `graft jobs` or the same command records the results."""


WHOLE = {
    "time_min": 1,
    "gpus_per_node": 1,
    "cpus_per_task": 1,
    "array_parallelism": 1,
    "notice_s": 1,
    "max_requeues": 0,
}
NEEDED = ("time_min", "array_parallelism", "notice_s", "max_requeues")
OWN = {
    "partition": "partition", "account": "account", "time": "time_min", "gpus-per-node": "gpus_per_node",
    "cpus-per-task": "cpus_per_task", "mem": "mem_gb", "array": "array_parallelism", "signal": "notice_s",
}  # fmt: skip
"""Flags of sbatch that have their own key."""
RUNS_OWN = {"nodes": "trainer.num_nodes", "ntasks-per-node": "trainer.devices", "ntasks": "trainer.devices"}


def read_slurm_settings(settings: Mapping[str, Any]) -> SlurmSettings:
    """Checks the plain values of `hydra.launcher`.

    Raises:
        ConfigError: lists every fault.
    """
    values: dict[str, Any] = dict(settings)
    values["setup"] = () if values.get("setup") is None else values["setup"]
    values["sbatch"] = {} if values.get("sbatch") is None else values["sbatch"]
    if faults := list(_faults(values)):
        raise ConfigError(faults)
    values["setup"] = tuple(values["setup"])
    return SlurmSettings(**values)


def _faults(values: Mapping[str, Any]) -> Iterator[Fault]:
    names = {each.name for each in fields(SlurmSettings)}
    for name in values:
        if name not in names:
            remedy = f"'hydra.launcher.sbatch={{{name}: {values[name]}}}', if it is a flag of sbatch"
            yield _fault(name, "a key of hydra/launcher=slurm", values[name], remedy)
    for name, least in WHOLE.items():
        value = values.get(name, least)
        if value is None and name not in NEEDED:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            expected = f"a whole number from {least} upward" + ("" if name in NEEDED else ", or null")
            yield _fault(name, expected, value, f"hydra.launcher.{name}={max(least, 1)}")
    for name in ("partition", "account"):
        value = values.get(name)
        if value is not None and (not isinstance(value, str) or not value):
            yield _fault(name, "its name, or null", value, f"hydra.launcher.{name}=NAME")
    memory = values.get("mem_gb")
    if memory is not None and (not isinstance(memory, int | float) or isinstance(memory, bool) or memory <= 0):
        yield _fault("mem_gb", "gigabytes above 0, or null", memory, "hydra.launcher.mem_gb=16")
    if not isinstance(values.get("detach", False), bool):
        yield _fault("detach", "true or false", values["detach"], "hydra.launcher.detach=true")
    setup = values["setup"]
    if not isinstance(setup, list | tuple) or not all(isinstance(line, str) for line in setup):
        yield _fault("setup", "a list of shell commands", setup, "'hydra.launcher.setup=[module load cuda]'")
    yield from _faults_of_flags(values["sbatch"])
    minutes, notice = values.get("time_min"), values.get("notice_s")
    if isinstance(minutes, int) and isinstance(notice, int) and 0 < 60 * minutes <= notice:
        expected = f"less than the job's time, hydra.launcher.time_min={minutes}"
        yield _fault("notice_s", expected, notice, f"hydra.launcher.notice_s={30 * minutes}")


def _faults_of_flags(flags: object) -> Iterator[Fault]:
    if not isinstance(flags, Mapping):
        yield _fault("sbatch", "flags of sbatch and their values", flags, "'hydra.launcher.sbatch={qos: high}'")
        return
    for flag in flags:
        name = str(flag).replace("_", "-")
        remedy = f"hydra.launcher.{OWN[name]}" if name in OWN else RUNS_OWN.get(name)
        if remedy:
            yield _fault("sbatch", "flags that have no key of their own", flag, f"{remedy}=…")


def _fault(name: str, expected: str, received: object, remedy: str) -> Fault:
    return Fault(key=f"hydra.launcher.{name}", expected=expected, received=repr(received), remedy=remedy)
