"""Processes that stay: what they keep between trials, what they do not, and when another takes over."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from graft.config.hydra_job import packed
from graft.sweep.attempt import Ended
from graft.sweep.job import TRIAL
from graft.sweep.workers import Job, Workers
from graft.system.processes import AT_ONCE, cores

# What a trial leaves in its process, its environment and its output, and how it ends (its word).
PROGRAM = """
import os, sys, graft
def job(config):
    word = config.word
    with open("LOG", "a") as log:
        said = (word, os.getpid(), hasattr(graft, "mark"), os.environ.get("LEFT"), os.environ.get("GRAFT_TRIAL"))
        print(*said, os.environ.get("CUDA_VISIBLE_DEVICES"), HydraConfig.get().runtime.output_dir, file=log)
    graft.mark, os.environ["LEFT"] = True, "behind"
    print("out", word)
    print("err", word, file=sys.stderr)
    if word == "killed":
        os.kill(os.getpid(), 9)
    if word == "leaves":
        os._exit(0)
    if word == "slow":
        import time
        time.sleep(60)
    if word == "raises":
        raise KeyError("no such thing")
    if word == "refused":
        raise SystemExit(2)
    if word == "stopped":
        raise SystemExit(143)
    if word == "speaks":
        raise SystemExit("in words")
from hydra.core.hydra_config import HydraConfig
"""
Do = Callable[..., Ended]


@pytest.fixture
def do(tmp_path: Path) -> Do:
    """do(workers, "word", env) has them do the job of that word in a folder of that name."""
    program, conf = tmp_path / "program.py", tmp_path / "conf"
    program.write_text(PROGRAM.replace("LOG", str(tmp_path / "log")))
    conf.mkdir()
    (conf / "config.yaml").write_text(
        "word: ???\nhydra: {job: {chdir: false}}\ndefaults: [override hydra/job_logging: none, _self_]\n"
    )

    def done(workers: Workers, word: str, env: Mapping[str, str] | None = None) -> Ended:
        with composing, initialize_config_dir(str(conf), version_base="1.3"):
            overrides = [f"word={word}", f"hydra.run.dir={tmp_path / word}", "hydra.output_subdir=null"]
            config = compose("config", overrides, return_hydra_config=True)
        job = Job(program=[str(program)], task="job", config=packed(config))
        return workers.run(job, tmp_path / word, env or {})

    composing = threading.Lock()
    return done


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(timeout_min=0.1)
    yield made
    made.close()


def lines(tmp_path: Path) -> list[list[str]]:
    return [line.split() for line in (tmp_path / "log").read_text().splitlines()]


def test_a_process_serves_the_next_trial_with_its_imports_and_nothing_else_of_the_last(
    do: Do, workers: Workers, tmp_path: Path
) -> None:
    for word in ("first", "second"):
        assert do(workers, word, {TRIAL: f"{tmp_path}:{word}"}) == Ended()
    (_, process, *first), (_, again, *second) = lines(tmp_path)
    assert process == again
    assert first == ["False", "None", f"{tmp_path}:first", "None", str(tmp_path / "first")]
    assert second == ["True", "None", f"{tmp_path}:second", "None", str(tmp_path / "second")]
    assert (tmp_path / "second" / "output.log").read_text() == "out second\n"
    assert (tmp_path / "second" / "errors.log").read_text() == "err second\n"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("killed", Ended(reason="its process was killed by SIGKILL: out of memory, or by hand")),
        ("slow", Ended(reason="it took longer than hydra.launcher.timeout_min=0.1")),
        ("stopped", Ended(interrupted=True)),
        ("leaves", Ended()),  # with exit code 0; what it has left in its folder says whether it is done
        ("speaks", Ended(reason="err speaks\nin words")),
    ],
)
def test_after_a_trial_that_did_not_end_well_the_next_has_another_process(
    do: Do, workers: Workers, tmp_path: Path, word: str, expected: Ended
) -> None:
    assert do(workers, word) == expected
    assert do(workers, "next") == Ended()
    (_, before, *_), (_, after, fresh, *_) = lines(tmp_path)
    assert before != after
    assert fresh == "False"


def test_a_process_that_has_died_since_its_last_trial_costs_the_next_one_nothing(
    do: Do, workers: Workers, tmp_path: Path
) -> None:
    assert do(workers, "first") == Ended()
    os.kill(int(lines(tmp_path)[0][1]), signal.SIGKILL)
    assert do(workers, "next") == Ended()
    assert [line[0] for line in lines(tmp_path)] == ["first", "next"]


def test_a_trial_that_is_refused_costs_no_process(do: Do, workers: Workers, tmp_path: Path) -> None:
    assert do(workers, "refused") == Ended(reason="err refused")
    assert do(workers, "next") == Ended()
    (_, before, *_), (_, after, *_) = lines(tmp_path)
    assert before == after


def test_what_a_trial_raises_is_its_reason(do: Do, workers: Workers) -> None:
    ended = do(workers, "raises")
    assert ended.reason.endswith("KeyError: 'no such thing'")


def test_a_process_serves_trials_of_its_own_environment_only(do: Do, workers: Workers, tmp_path: Path) -> None:
    for word, env in {"a": {"WHO": "1"}, "b": {"WHO": "1"}, "c": {"WHO": "2"}}.items():
        assert do(workers, word, {**env, TRIAL: word}) == Ended()
    a, b, c = (process for _, process, *_ in lines(tmp_path))
    assert a == b != c


def test_each_thread_has_a_process_and_a_device(do: Do, tmp_path: Path) -> None:
    workers = Workers(devices=["4", "7"])
    with ThreadPoolExecutor(2) as pool:
        ends = pool.map(lambda word: do(workers, word), "abcdef")
        assert list(ends) == [Ended()] * 6
    workers.close()
    pairs = {(process, device) for _, process, *_, device, _ in lines(tmp_path)}
    assert len(pairs) == len({process for process, _ in pairs}) == len({device for _, device in pairs}) <= 2


def test_runs_at_once_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.system.processes.all_cores", lambda: 8)
    assert cores() == 8
    monkeypatch.setenv(AT_ONCE, "3")
    assert cores() == 2
    monkeypatch.setenv(AT_ONCE, "20")
    assert cores() == 1
