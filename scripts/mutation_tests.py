"""Runs tests in forks of one process that has imported torch already, and finds out which test goes over which line."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

COPIED = ("src", "tests", "benchmarks", "conf", "docs", "scripts", "train.py", "pyproject.toml", "constraints.txt")
SETUP = "setup of "
TIMED_OUT = -1
MEMORY = 12 << 30  # a change of a size may ask for more than the machine has


def preload() -> None:
    """Imports what the tests need of other packages, so that no fork has to."""
    import lightning
    import numpy
    import PIL.Image
    import timm
    import torch
    import torchmetrics
    import torchvision

    modules = (lightning, numpy, PIL.Image, timm, torch, torchmetrics, torchvision)
    assert all(modules)
    assert "graft" not in sys.modules, "the forks import it, each in its own version"


def copy_tree(root: Path, to: Path) -> Path:
    """What tests need of the repository, so that a change is seen by the processes that tests start too."""
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, to / name)
    for name in ("README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy2(root / name, to / name)
    return to


def fork(function: Callable[[], int], *, log: Path) -> int:
    """Starts the function in a child, in a process group of its own; gives its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 3
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = function()
    except BaseException:
        traceback.print_exc()  # to the log: nothing may go back into the parent's own work
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, seconds: float) -> int:
    """The child's exit code; TIMED_OUT where it had to be killed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            _kill_group(pid)  # what the tests have left running
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    _kill_group(pid)
    os.waitpid(pid, 0)
    return TIMED_OUT


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def run_pytest(tree: Path, tests: Sequence[str], plugins: Sequence[object] = ()) -> int:
    """In a child: the tests of a tree, with the graft that lies in it, up to the first that fails."""
    os.chdir(tree)
    sys.path[:0] = [str(tree / "src"), str(tree)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tree / "src"), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    # Packages that bring plugins of pytest are imported before it is, of which it warns.
    loaded = ("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
    words = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=short", *loaded, f"--rootdir={tree}", *tests]
    return int(pytest.main(words, plugins=list(plugins)))


@dataclass(slots=True)
class Reach:
    """Which tests go over which lines, and how long each takes."""

    lines: dict[str, dict[int, list[str]]] = field(default_factory=dict[str, "dict[int, list[str]]"])
    """File to line to tests; `SETUP` and a file of tests: in the set-up of one of its fixtures."""
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, found: Mapping[str, Any]) -> None:
        for path, lines in found["lines"].items():
            held = self.lines.setdefault(path, {})
            for line, tests in lines.items():
                held.setdefault(int(line), []).extend(tests)
        self.seconds.update(found["seconds"])

    def tests_of(self, path: str, lines: tuple[int, int] | None) -> list[str]:
        """Those that go over the lines, the quickest first; None: over any of the file, which is changed for all.

        A test that is the first to import the file would be the only one to go over what an import runs.
        """
        held = self.lines.get(path, {})
        inside = [held[line] for line in held if lines is None or lines[0] <= line <= lines[1]]
        named = self._usable(inside) or (self._usable(held.values()) if any(inside) else set())
        files = {test.removeprefix(SETUP) for test in named if test.startswith(SETUP)}
        tests = {test for test in self.seconds if test in named or test.partition("::")[0] in files}
        return sorted(tests, key=lambda test: (self.seconds[test], test))

    def _usable(self, contexts: Iterable[Sequence[str]]) -> set[str]:
        """The set-ups and tests among them that pass as it is."""
        return {test for tests in contexts for test in tests if test in self.seconds or test.startswith(SETUP)}

    def within(self, tests: Sequence[str], seconds: float) -> list[str]:
        """As many as take so long together, one at least."""
        chosen, spent = list[str](), 0.0
        for test in tests:
            spent += self.seconds[test]
            if chosen and spent > seconds:
                break
            chosen.append(test)
        return chosen


class _Recorder:
    """A plugin of pytest that notes lines by test."""

    def __init__(self, tree: Path, rooms: Iterable[str], to: Path) -> None:
        import coverage

        self.tree, self.to = tree, to
        self.sources = [str(tree / room) for room in rooms]
        self.coverage = coverage.Coverage(data_file=None, config_file=False, source=self.sources)
        self.coverage.set_option("run:disable_warnings", ["no-data-collected"])  # some files go over no line of these
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: set[str] = set()
        self.coverage.start()

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.coverage.switch_context(SETUP + item.nodeid.partition("::")[0])

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        self.coverage.switch_context(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.outcome != "passed":
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {
            str(Path(file).relative_to(self.tree)): dict(data.contexts_by_lineno(file))
            for file in data.measured_files()
        }
        kept = {test: seconds for test, seconds in self.seconds.items() if test not in self.failed}
        self.to.write_text(json.dumps({"lines": lines, "seconds": kept, "failed": sorted(self.failed)}))


def find_reach(tree: Path, files: Sequence[str], rooms: Sequence[str], kept: Path, say: Callable[[str], None]) -> Reach:
    """Each file of tests once, in a fork of its own; what is known of the same sources is read from `kept`."""
    reach = Reach()
    of_sources = _digest(tree, sorted(str(path.relative_to(tree)) for path in (tree / "src").rglob("*.py")))
    kept.mkdir(parents=True, exist_ok=True)
    for file in files:
        place = kept / f"{_digest(tree, [file])[:12]}-{of_sources[:12]}.json"
        if not place.exists():
            say(f"which lines {file} goes over")
            record = partial(_record, tree, file, rooms, place)
            wait(fork(record, log=kept / "reach.log"), 3600)
        if not place.exists():
            say(f"{file} could not be run; see {kept / 'reach.log'}")
            continue
        found = json.loads(place.read_text())
        if found["failed"]:
            say(f"{file}: left out, as they fail as it is: {', '.join(found['failed'])}")
        reach.add(found)
    return reach


def _record(tree: Path, file: str, rooms: Sequence[str], to: Path) -> int:
    return run_pytest(tree, [file, "--maxfail=1000"], [_Recorder(tree, rooms, to)])


def _digest(tree: Path, paths: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.encode() + b"\0" + (tree / path).read_bytes())
    return digest.hexdigest()
