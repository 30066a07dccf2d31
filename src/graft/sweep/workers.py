"""Persistent processes that run one trial after the other, so each imports once. A crash costs only one trial."""

from __future__ import annotations

import json
import queue
import select
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from graft.sweep.attempt import Ended
from graft.sweep.children import ended, environment, stop, too_long
from graft.sweep.job import TRIAL

SERVE = ("-m", "graft.sweep.serve")
REFUSED = 2  # the exit code of a run whose config, donor or data are wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run in the form in which Hydra's launchers pass it to another process: the function and its config."""

    program: Sequence[str]
    """What stands behind `python` to run it: a file, or -m and a module's name."""
    task: str
    """The function's name in there."""
    config: str
    """As `graft.config.hydra_job.packed` writes it."""

    def request(self, folder: Path, env: Mapping[str, str]) -> str:
        """The line that `graft.sweep.serve` reads."""
        job = {"program": list(self.program), "task": self.task, "config": self.config}
        return json.dumps({**job, "folder": str(folder), "env": dict(env)})


class Worker:
    """A process that runs jobs one at a time (graft.sweep.serve)."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        """What it was started with, beside this process's own environment."""
        self.process = subprocess.Popen(
            [sys.executable, *SERVE],
            env=environment(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    def run(self, job: Job, folder: Path, env: Mapping[str, str], seconds: float | None) -> int:
        """The job's exit code. If the process ends during the job, it is the process's, which may be 0 (os._exit).

        Raises:
            TimeoutExpired: the job has not ended within the time limit.
            BrokenPipeError: the process had already ended, so the job was not started.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(job.request(folder, env), file=self.process.stdin, flush=True)
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        if not ready:
            raise subprocess.TimeoutExpired(job.task, seconds or 0)
        code = self.process.stdout.readline()
        return int(code) if code else self.process.wait()

    def end(self) -> None:
        """Asks the process to save its state and end, if it is running a job."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.process.stdout.closed:
            return
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.process.poll() is None:
            stop(self.process)
        self.process.stdout.close()


@dataclass(slots=True, kw_only=True)
class Workers:
    """Runs the jobs of trials, one at a time in each calling thread. A thread's process is reused for its next job.

    A process is reused only after a trial that succeeded or was refused before it started, and only for a trial with
    the same environment. After a failure, the process itself may be faulty (a device in an undefined state, say).

    Args:
        timeout_min: time limit of a trial in minutes; None: no limit.
        devices: values of CUDA_VISIBLE_DEVICES, one per thread; empty: it is not changed.
    """

    timeout_min: float | None = None
    devices: Sequence[str] = ()
    _free: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    _all: list[Worker] = field(default_factory=list[Worker])
    _own: threading.local = field(default_factory=threading.local)  # a process ends with the thread that started it

    def __post_init__(self) -> None:
        for device in self.devices:
            self._free.put(device)

    def run(self, job: Job, folder: Path, env: Mapping[str, str]) -> Ended:
        """Runs the job to its end. Its output is appended to two files in the trial's folder."""
        seconds = None if self.timeout_min is None else 60 * self.timeout_min
        worker = self._worker({name: value for name, value in env.items() if name != TRIAL})
        self._own.worker = None  # unless all goes well
        try:
            code = worker.run(job, folder, env, seconds)
            if code in (0, REFUSED) and worker.lives:
                self._own.worker = worker
        except subprocess.TimeoutExpired:
            return too_long(self.timeout_min)
        except BrokenPipeError:  # it has died since it was looked at
            return self.run(job, folder, env)
        finally:
            if self._own.worker is None:
                worker.end()
        return ended(code, folder)

    def close(self) -> None:
        """Ends the processes. Called when no trial is running."""
        for worker in self._all:
            worker.end()

    def _worker(self, env: Mapping[str, str]) -> Worker:
        """The worker of this thread."""
        own = self._own
        if self.devices:
            if not hasattr(own, "device"):
                own.device = self._free.get()
            env = {**env, "CUDA_VISIBLE_DEVICES": own.device}
        worker = getattr(own, "worker", None)
        if worker is not None and not (worker.env == env and worker.lives):
            worker.end()
            worker = None
        if worker is None:
            worker = Worker(env)
            self._all.append(worker)
        own.worker = worker
        return worker
