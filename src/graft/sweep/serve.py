"""python -m graft.sweep.serve: runs the jobs that it receives one after the other, with a single import for all.

Each line of standard input is a job (`graft.sweep.workers.Job.request`), and each line of standard output its exit
code. As in Hydra's own launchers, `run_job` runs the job with a config that is already composed.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from hydra.core.utils import setup_globals
from hydra.types import TaskFunction

from graft.config.compose import register
from graft.config.hydra_job import run_packed
from graft.sweep.children import ERRORS, OUTPUT
from graft.sweep.job import PARENT, STAYS, end_with


def main() -> None:
    """Runs until standard input ends."""
    commands, codes = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    if parent := os.environ.get(PARENT):
        end_with(int(parent))
    os.environ[STAYS] = "1"
    setup_globals()
    register()
    try:
        for line in commands:
            job = json.loads(line)
            code = run(job, Path(job["folder"]))
            print(code, file=codes, flush=True)
            gc.collect()  # a network and what refers to it in circles, before the next one is built
            if not gc.get_freeze_count():
                gc.freeze()  # what the libraries hold is not looked through each time
    except KeyboardInterrupt:  # between two commands there is nothing to be saved
        pass


def run(job: Mapping[str, Any], folder: Path) -> int:
    """Runs the job, and returns the exit code of the same command. Output is appended to two files in the folder."""
    with _printed_to(folder), _environment(job["env"]):
        try:
            run_packed(_task(tuple(job["program"]), job["task"]), job["config"])
            return 0
        except SystemExit as end:
            return _code(end)
        except KeyboardInterrupt:
            return 130
        except BaseException:
            traceback.print_exc()
            return 1


@cache
def _task(program: Sequence[str], name: str) -> TaskFunction:
    """The function with this name in the program, which is imported once."""
    if program[0] == "-m":
        return getattr(import_module(program[1]), name)
    spec = spec_from_file_location("graft_program", program[0])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.path[0] = str(Path(program[0]).absolute().parent)  # where Python puts it
    spec.loader.exec_module(module)
    return getattr(module, name)


def _code(end: SystemExit) -> int:
    """The exit code with which Python itself would end."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


@contextmanager
def _printed_to(folder: Path) -> Generator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    before = {stream: os.dup(stream) for stream in (1, 2)}
    for stream, name in ((1, OUTPUT), (2, ERRORS)):
        with open(folder / name, "ab") as file:
            os.dup2(file.fileno(), stream)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, copy in before.items():
            os.dup2(copy, stream)
            os.close(copy)


@contextmanager
def _environment(env: Mapping[str, str]) -> Generator[None]:
    """Within this context, the environment also has these variables. Afterwards, it is restored."""
    before = dict(os.environ)
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    main()
