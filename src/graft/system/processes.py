"""The position of this process among those of its run, before any communication, and the number of runs on this
machine."""

from __future__ import annotations

import os

from graft.system.terminal import printable

# Set by torchrun; by Lightning for the processes it starts; by who starts a command on several machines; by srun.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
AT_ONCE = "GRAFT_AT_ONCE"
"""Environment variable: how many runs of a sweep this machine does at once."""


def is_first() -> bool:
    """Whether this process prints and writes: it is the only one, or the first of several."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def say(line: str) -> None:
    """Prints a line once, however many processes there are."""
    if is_first():
        print(printable(line), flush=True)


def at_once() -> int:
    """Number of runs on this machine at once, including this one."""
    return int(os.environ.get(AT_ONCE, "1"))


def all_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """This run's share of the cores."""
    return max(1, all_cores() // at_once())
