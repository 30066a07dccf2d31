"""The states of jobs according to SLURM.

squeue lists jobs that are queued, running or recently ended. sacct lists all jobs, if accounting is enabled.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass

from graft.config.faults import RunFailed

PATIENCE = 60
"""Time in seconds within which SLURM's programs must answer."""
OVER = frozenset({
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE",
    "REVOKED",
})  # fmt: skip
"""Final states. A job that will be queued again is PENDING, REQUEUED or similar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    word: str
    """PENDING, RUNNING, COMPLETED, …"""
    why: str = ""
    """Why the job is waiting."""
    spent: str = ""
    """How long the job has run since its last start."""

    @property
    def is_over(self) -> bool:
        return self.word in OVER


def states_of(jobs: Collection[str]) -> dict[str, JobState] | None:
    """The state of each job that SLURM knows. None if SLURM does not answer."""
    answer = _ask("squeue", "--noheader", "--array", "--states=all", f"--user={_user()}", "--format=%i|%T|%r|%M")
    if answer is None:
        return None
    states = read_squeue(answer)
    missing = [job for job in jobs if job not in states]
    if missing and shutil.which("sacct"):
        states.update(read_sacct(_ask("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(missing)) or ""))
    return {job: states[job] for job in jobs if job in states}


def read_squeue(text: str) -> dict[str, JobState]:
    rows = (line.strip().split("|") for line in text.splitlines() if line.count("|") == 3)
    return {job: JobState(word=word, why="" if why == "None" else why, spent=spent) for job, word, why, spent in rows}


def read_sacct(text: str) -> dict[str, JobState]:
    """The states in the output of sacct. A state may have several words: CANCELLED by 1000."""
    rows = (line.strip().split("|") for line in text.splitlines() if line.count("|") == 1)
    return {job: JobState(word=state.split()[0]) for job, state in rows if state}


def requeue(job: str) -> None:
    """Has this process's own job queued again. SLURM then ends it.

    Raises:
        RunFailed: SLURM refuses.
    """
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode:
        raise RunFailed(f"its time is up, and SLURM does not queue it again: {done.stderr.strip()}")


def cancel(jobs: Collection[str]) -> None:
    if jobs:
        subprocess.run(["scancel", *jobs], capture_output=True, timeout=PATIENCE, check=False)


def _ask(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name
