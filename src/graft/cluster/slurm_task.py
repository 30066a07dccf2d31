"""Runs inside a SLURM job: starts the run's command as a separate process, and acts on its exit code.

Only the run handles signals (`graft.system.stopping`): all of its processes save together after the current step and
end with the signal's exit code. This process removes submitit's handlers and decides by the exit code. After USR2 and
USR1, which announce the time limit, it has the job queued again. SIGTERM comes from SLURM with a requeue, a preemption
or a cancellation, and SLURM handles what follows.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from graft.cluster.record import END_FILE, write_end
from graft.cluster.states import requeue
from graft.config.faults import RunFailed
from graft.sweep.children import HANDED_DOWN, child, ended, stop_signal
from graft.system.processes import is_first
from graft.system.stopping import SIGNALS

TIME_IS_UP = (signal.SIGUSR1, signal.SIGUSR2)
RANK_OF_SRUN = "SLURM_PROCID"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmTask:
    """One process of the job; srun starts as many as the run has. submitit pickles it, and the job calls it.

    Args:
        env: environment variables of the run in addition to those of the job.
        max_requeues: number of restarts after which the job is not queued again at its time limit.
    """

    command: Sequence[str]
    folder: Path
    env: Mapping[str, str]
    max_requeues: int

    def __call__(self) -> None:
        job = job_of_this_process()
        if is_first():
            (self.folder / END_FILE).unlink(missing_ok=True)
        code, signals = self._run()
        if not is_first():
            raise SystemExit(code if code >= 0 else 128 - code)
        # Whatever the run comes to once SLURM is ending it, it is not over: SLURM knows what follows.
        number = signal.SIGTERM if code and signal.SIGTERM in signals else stop_signal(code)
        reason = ""
        if number is None:
            reason = ended(code, self.folder).reason
        elif number in TIME_IS_UP:
            reason = self._queue_again(job)
        if number is None or reason:
            write_end(self.folder, job, reason)
        raise SystemExit(128 + number if number else 1 if reason else 0)

    def _run(self) -> tuple[int, set[int]]:
        """The exit code (negative for a signal) and the signals received, which this process forwards and survives."""
        running: list[subprocess.Popen[bytes]] = []
        signals: set[int] = set()

        def pass_on(number: int, frame: FrameType | None) -> None:
            signals.add(number)
            for process in running:
                process.send_signal(number)

        before: dict[int, Any] = {number: signal.signal(number, pass_on) for number in (*SIGNALS, signal.SIGCONT)}
        try:
            dropped = [name for name in HANDED_DOWN if name != RANK_OF_SRUN]
            with child(self.command, self.folder, self.env, handed_down=dropped) as process:
                running.append(process)
                return process.wait(), signals
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if number == signal.SIGCONT else signal.SIG_IGN)

    def _queue_again(self, job: str) -> str:
        """Has the job queued again, after which SLURM ends this process. Returns why it cannot be; empty if it can."""
        begun_anew = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if begun_anew >= self.max_requeues:
            return (
                "its time was up, and it had been queued again as often as it may; try a larger"
                f" hydra.launcher.max_requeues (now {self.max_requeues}) or hydra.launcher.time_min"
            )
        try:
            requeue(job)
        except RunFailed as error:
            return str(error)
        return ""


def job_of_this_process() -> str:
    """SLURM's id of the job that this process belongs to, as squeue writes it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
