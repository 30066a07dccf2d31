"""Processes that stay: what they keep between trials, what they do not, and when another takes over."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graft.processes import AT_ONCE, cores
from graft.sweep.attempt import Ended
from graft.sweep.job import TRIAL
from graft.sweep.workers import Workers

# What a trial leaves in its process, its environment and its output, and how it ends (its second word).
SCRIPT = """
import os, sys, graft
word = sys.argv[1]
with open("LOG", "a") as log:
    said = (word, os.getpid(), hasattr(graft, "mark"), os.environ.get("LEFT"), os.environ.get("GRAFT_TRIAL"))
    print(*said, os.environ.get("CUDA_VISIBLE_DEVICES"), __name__, file=log)
graft.mark, os.environ["LEFT"] = True, "behind"
print("out", word)
print("err", word, file=sys.stderr)
if word == "killed":
    os.kill(os.getpid(), 9)
if word == "slow":
    import time
    time.sleep(60)
if word == "raises":
    raise KeyError("no such thing")
if word == "stopped":
    raise SystemExit(143)
if word == "speaks":
    raise SystemExit("in words")
"""


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.replace("LOG", str(tmp_path / "log")))
    return [sys.executable, str(path)]


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(timeout_min=0.1)
    yield made
    made.close()


def lines(tmp_path: Path) -> list[list[str]]:
    return [line.split() for line in (tmp_path / "log").read_text().splitlines()]


def test_a_process_serves_the_next_trial_with_its_imports_and_nothing_else_of_the_last(
    script: list[str], workers: Workers, tmp_path: Path
) -> None:
    for word in ("first", "second"):
        assert workers.run([*script, word], tmp_path / word, {TRIAL: f"{tmp_path}:{word}"}) == Ended()
    (_, process, *first), (_, again, *second) = lines(tmp_path)
    assert process == again
    assert first == ["False", "None", f"{tmp_path}:first", "None", "__main__"]
    assert second == ["True", "None", f"{tmp_path}:second", "None", "__main__"]
    assert (tmp_path / "second" / "output.log").read_text() == "out second\n"
    assert (tmp_path / "second" / "errors.log").read_text() == "err second\n"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("killed", Ended(reason="its process was killed by SIGKILL: out of memory, or by hand")),
        ("slow", Ended(reason="it took longer than hydra.launcher.timeout_min=0.1")),
        ("stopped", Ended(interrupted=True)),
        ("speaks", Ended(reason="err speaks\nin words")),
    ],
)
def test_after_a_trial_that_did_not_end_well_the_next_has_another_process(
    script: list[str], workers: Workers, tmp_path: Path, word: str, expected: Ended
) -> None:
    assert workers.run([*script, word], tmp_path / "0", {}) == expected
    assert workers.run([*script, "next"], tmp_path / "1", {}) == Ended()
    (_, before, *_), (_, after, fresh, *_) = lines(tmp_path)
    assert before != after
    assert fresh == "False"


def test_what_a_trial_raises_is_its_reason(script: list[str], workers: Workers, tmp_path: Path) -> None:
    ended = workers.run([*script, "raises"], tmp_path / "0", {})
    assert ended.reason.endswith("KeyError: 'no such thing'")


def test_a_process_serves_trials_of_its_own_environment_only(
    script: list[str], workers: Workers, tmp_path: Path
) -> None:
    for word, env in {"a": {"WHO": "1"}, "b": {"WHO": "1"}, "c": {"WHO": "2"}}.items():
        assert workers.run([*script, word], tmp_path / word, {**env, TRIAL: word}) == Ended()
    a, b, c = (process for _, process, *_ in lines(tmp_path))
    assert a == b != c


def test_each_thread_has_a_process_and_a_device(script: list[str], tmp_path: Path) -> None:
    workers = Workers(devices=["4", "7"])
    with ThreadPoolExecutor(2) as threads:
        ends = threads.map(lambda word: workers.run([*script, word], tmp_path / word, {}), "abcdef")
        assert list(ends) == [Ended()] * 6
    workers.close()
    pairs = {(process, device) for _, process, *_, device, _ in lines(tmp_path)}
    assert len(pairs) == len({process for process, _ in pairs}) == len({device for _, device in pairs}) <= 2


def test_runs_at_once_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.processes.all_cores", lambda: 8)
    assert cores() == 8
    monkeypatch.setenv(AT_ONCE, "3")
    assert cores() == 2
    monkeypatch.setenv(AT_ONCE, "20")
    assert cores() == 1
