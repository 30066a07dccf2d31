"""Runs trials in separate processes: a crash costs one trial, and its reason is recorded."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft.config.examples import quoted
from graft.config.faults import InputError
from graft.config.hydra_flags import flags_parser
from graft.sweep.attempt import Ended
from graft.sweep.job import FAILURE_FILE, PARENT
from graft.system.processes import RANKS
from graft.system.stopping import SIGNALS

OUTPUT, ERRORS = "output.log", "errors.log"
LAST_LINES = 6
GRACE_SECONDS = 60
"""To write a checkpoint after SIGTERM, before SIGKILL."""
# Set by whoever launched this process as one of several; a trial's process is the first of its own.
HANDED_DOWN = (
    *RANKS,
    *("GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A trial's run that is ready to be started, here or elsewhere."""

    command: Sequence[str]
    folder: Path
    env: Mapping[str, str]
    processes: int
    """On each machine."""
    nodes: int


@dataclass(slots=True, kw_only=True)
class Children:
    """Starts the processes of trials, several at once if several threads call it.

    Args:
        timeout_min: time limit of a trial in minutes; None: no limit.
        devices: values of CUDA_VISIBLE_DEVICES, one per process; empty: it is not changed.
    """

    timeout_min: float | None = None
    devices: Sequence[str] = ()
    _free: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        for device in self.devices:
            self._free.put(device)

    def run(self, command: Sequence[str], folder: Path, env: Mapping[str, str]) -> Ended:
        """Runs the command to its end. Its output is appended to two files in the trial's folder."""
        if not self.devices:
            return self._run(command, folder, env)
        device = self._free.get()
        try:
            return self._run(command, folder, {**env, "CUDA_VISIBLE_DEVICES": device})
        finally:
            self._free.put(device)

    def _run(self, command: Sequence[str], folder: Path, env: Mapping[str, str]) -> Ended:
        seconds = None if self.timeout_min is None else 60 * self.timeout_min
        with child(command, folder, env) as process:
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                return too_long(self.timeout_min)
        return ended(code, folder)


@contextmanager
def child(
    command: Sequence[str], folder: Path, env: Mapping[str, str], *, handed_down: Sequence[str] = HANDED_DOWN
) -> Generator[subprocess.Popen[bytes]]:
    """The command's process, which is ended with this context. Its output is appended to two files in the folder.

    Args:
        handed_down: environment variables of this process that the child does not get.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / OUTPUT, "ab") as output, open(folder / ERRORS, "ab") as errors:
        process = subprocess.Popen(
            command,
            env=environment(env, handed_down=handed_down),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                stop(process)


def environment(env: Mapping[str, str], *, handed_down: Sequence[str] = HANDED_DOWN) -> dict[str, str]:
    """A child's environment: this process's, without variables that are for it alone, and with the given ones."""
    inherited = {name: value for name, value in os.environ.items() if name not in handed_down}
    return {**inherited, PARENT: str(os.getpid()), **env}


def too_long(timeout_min: float | None) -> Ended:
    """The result of a trial that exceeded its time limit in minutes."""
    return Ended(reason=f"it took longer than hydra.launcher.timeout_min={timeout_min:g}")


def ended(code: int, folder: Path) -> Ended:
    """The meaning of an exit code, with the reason that the job recorded."""
    if code == 0:
        return Ended()
    if stop_signal(code):
        return Ended(interrupted=True)
    if code < 0:
        name = signal.Signals(-code).name
        likely = ": out of memory, or by hand" if -code == signal.SIGKILL else ""
        return Ended(reason=f"its process was killed by {name}{likely}")
    return Ended(reason=_reason(folder) or f"its process ended with exit code {code}")


def stop_signal(code: int) -> int | None:
    """The signal that stopped a process with this exit code, if one did."""
    number = -code if code < 0 else code - 128
    return number if number in SIGNALS else None


def _reason(folder: Path) -> str:
    """The reason that the job recorded, otherwise the last lines of its standard error."""
    try:
        return (folder / FAILURE_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        lines = (folder / ERRORS).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "\n".join(lines[-LAST_LINES:])


def stop(process: subprocess.Popen[Any]) -> None:
    """Stops a process after giving it time to save its state."""
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def repeated_command(overrides: Sequence[str], *, folder: Path, sweep: Path, number: int) -> list[str]:
    """This process's command as a single run in its own folder, with other overrides.

    It must be a single run, because Lightning starts the processes of a distributed training by repeating the command,
    and the command of a sweep would start another sweep.
    """
    return [
        *(sys.executable, *this_program(), *config_flags(sys.argv[1:])),
        *(word for word in overrides if not word.startswith("hydra.mode=")),
        *(
            "hydra.mode=RUN",
            f"hydra.run.dir={quoted(folder)}",
            f"hydra.sweep.dir={quoted(sweep)}",
            f"hydra.job.num={number}",
        ),
    ]


def this_program() -> list[str]:
    """The arguments of `python` that start this program: its file, or -m and its name."""
    import __main__

    spec = getattr(__main__, "__spec__", None)
    return ["-m", spec.name] if spec else [os.path.abspath(sys.argv[0])]


def config_flags(words: Sequence[str]) -> list[str]:
    """The command's flags that say where its config is."""
    flags, _ = flags_parser().parse_known_args(list(words))
    named = {"--config-name": flags.config_name, "--config-path": flags.config_path, "--config-dir": flags.config_dir}
    return [word for flag, value in named.items() if value is not None for word in (flag, value)]


def check_settings(*, n_jobs: Any, timeout_min: Any) -> None:
    """Raises InputError if a setting of `hydra.launcher` is invalid."""
    whole = isinstance(n_jobs, int) and not isinstance(n_jobs, bool)
    if not whole or n_jobs < 1:
        raise InputError(f"hydra.launcher.n_jobs: expected a whole number from 1 upward, received {n_jobs!r}")
    number = isinstance(timeout_min, int | float) and not isinstance(timeout_min, bool)
    if timeout_min is not None and not (number and timeout_min > 0):
        raise InputError(f"hydra.launcher.timeout_min: expected minutes above 0, or null, received {timeout_min!r}")


def visible_devices(wanted: Sequence[str | int] | None) -> list[str]:
    """The GPUs to distribute trials over: those given, otherwise those visible to this process.

    Raises:
        InputError: there is no GPU.
    """
    if wanted:
        return [str(device) for device in wanted]
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        devices = [device.strip() for device in listed.split(",") if device.strip() not in ("", "-1")]
    else:
        import torch

        devices = [str(device) for device in range(torch.cuda.device_count())]
    if not devices:
        raise InputError(
            "hydra/launcher=gpus: expected a GPU, received a machine without one; try hydra/launcher=process, or"
            " name them: hydra.launcher.devices=[0,1]"
        )
    return devices
