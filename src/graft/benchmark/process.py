"""A command with so many threads: its wall clock, its processor time and its peak memory."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
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


def run_command(
    command: Sequence[str], *, threads: int, environment: Mapping[str, str] | None = None, codes: Sequence[int] = (0,)
) -> Ran:
    """Runs it to its end, its output kept for the error that it may end in.

    Args:
        codes: exit codes that are no failure.

    Raises:
        RunFailed: it ended with another one.
    """
    number = str(threads)
    variables = {**os.environ, "OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number, **(environment or {})}
    with TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        began = perf_counter()
        child = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=variables
        )
        _, status, usage = os.wait4(child.pid, 0)
        seconds = perf_counter() - began
        child.returncode = code = os.waitstatus_to_exitcode(status)
        if code not in codes:
            said.seek(0)
            raise RunFailed(f"`{shlex.join(command)}` ended with code {code}: …{said.read()[-_SHOWN:].strip()}")
    return Ran(seconds=seconds, processor=usage.ru_utime + usage.ru_stime, peak=usage.ru_maxrss * _PER_KILOBYTE)


def train_script() -> str:
    """`train.py` of the folder that the benchmark is started in.

    Raises:
        InputError: there is none.
    """
    if not Path("train.py").is_file():
        raise InputError(f"expected train.py in {Path.cwd()}, received none; try `cd` to the graft repository first")
    return "train.py"
