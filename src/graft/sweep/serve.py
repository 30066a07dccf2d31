"""python -m graft.sweep.serve: runs the commands that it is sent one after the other, and so imports once for them all.

A line of standard input is a command (JSON: `words`, `folder`, `env`); a line of standard output is its exit code.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import sys
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from graft.sweep.children import ERRORS, OUTPUT
from graft.sweep.job import PARENT, STAYS, end_with


def main() -> None:
    """Until standard input ends."""
    commands, codes = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    if parent := os.environ.get(PARENT):
        end_with(int(parent))
    os.environ[STAYS] = "1"
    try:
        for line in commands:
            asked = json.loads(line)
            code = run(asked["words"], Path(asked["folder"]), asked["env"])
            print(code, file=codes, flush=True)
            gc.collect()  # a network and what refers to it in circles, before the next one is built
            if not gc.get_freeze_count():
                gc.freeze()  # what the libraries hold is not looked through each time
    except KeyboardInterrupt:  # between two commands there is nothing to be saved
        pass


def run(words: Sequence[str], folder: Path, env: Mapping[str, str]) -> int:
    """The exit code of `python words…`, which adds what it prints to two files in the folder."""
    with _printed_to(folder), _environment(env):
        try:
            _as_main(words)
            return 0
        except SystemExit as end:
            return _code(end)
        except KeyboardInterrupt:
            return 130
        except BaseException:
            traceback.print_exc()
            return 1


def _as_main(words: Sequence[str]) -> None:
    if words[0] == "-m":
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        sys.path[0] = str(Path(words[0]).absolute().parent)
        runpy.run_path(words[0], run_name="__main__")


def _code(end: SystemExit) -> int:
    """As Python itself ends."""
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
        for stream, kept in before.items():
            os.dup2(kept, stream)
            os.close(kept)


@contextmanager
def _environment(env: Mapping[str, str]) -> Generator[None]:
    """Within it, the environment has these variables too; behind it, it is what it was."""
    before = dict(os.environ)
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    main()
