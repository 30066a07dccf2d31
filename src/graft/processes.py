"""Which of several processes of one run this is, before any of them has met the others."""

from __future__ import annotations

import os

# Set by torchrun; by Lightning for the processes it starts; by who starts a command on several machines; by srun.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def is_first() -> bool:
    """Whether this process speaks and writes: it is alone, or the first of several."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def say(line: str) -> None:
    """Prints a line once, however many processes there are."""
    if is_first():
        print(line, flush=True)
