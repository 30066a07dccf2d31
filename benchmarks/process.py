"""A command with so many threads: its wall clock, its processor time and its peak memory."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from time import perf_counter

from graft.config.faults import InputError, RunFailed

_SHOWN = 600  # characters of what a command that failed said last
_PER_KILOBYTE = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, kilobytes elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a finished command took, the processes that it started and waited for included."""

    seconds: float
    processor: float
    peak: int
    """Bytes, of the largest process."""


def run_command(command: Sequence[str], *, threads: int, codes: Sequence[int] = (0,)) -> Ran:
    """Runs it to its end, its output kept for the error that it may end in.

    Args:
        codes: exit codes that are no failure.

    Raises:
        RunFailed: it ended with another one.
    """
    with TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        began = perf_counter()
        child = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment(threads)
        )
        _, status, usage = os.wait4(child.pid, 0)
        seconds = perf_counter() - began
        child.returncode = code = os.waitstatus_to_exitcode(status)
        if code not in codes:
            said.seek(0)
            raise RunFailed(f"`{shlex.join(command)}` ended with code {code}: {last_words(said.read())}")
    return Ran(seconds=seconds, processor=usage.ru_utime + usage.ru_stime, peak=usage.ru_maxrss * _PER_KILOBYTE)


def environment(threads: int) -> dict[str, str]:
    """This process's, with so many threads."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def last_words(said: str) -> str:
    """The end of what a command that failed wrote."""
    return f"…{said[-_SHOWN:].strip()}"


def train_script() -> str:
    """`train.py` of the folder that the benchmark is started in.

    Raises:
        InputError: there is none.
    """
    if not Path("train.py").is_file():
        raise InputError(f"expected train.py in {Path.cwd()}, received none; try `cd` to the graft repository first")
    return "train.py"
