"""A trial's process: how it ended, and why, in words; one device each."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from graft.config.faults import InputError
from graft.sweep.attempt import Ended
from graft.sweep.children import Children, check_settings, repeated_command, visible_devices
from graft.sweep.job import PARENT, TRIAL, trial_of_this_job
from graft.sweep.record import KEYS, training_lock
from graft.system.locks import FileLock

SIGKILL = "its process was killed by SIGKILL: out of memory, or by hand"
HOLD = """
import os, sys, time
def say(sign):
    with open(sys.argv[1], "a") as log:
        log.write(sign + os.environ["CUDA_VISIBLE_DEVICES"] + os.linesep)
say("+")
time.sleep(0.2)
say("-")
assert "LOCAL_RANK" not in os.environ and os.environ["WHO"] == "child"
"""


def run(folder: Path, code: str, timeout_min: float | None = None) -> Ended:
    return Children(timeout_min=timeout_min).run([sys.executable, "-c", code], folder, {})


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("pass", Ended()),
        ("import os; os._exit(7)", Ended(reason="its process ended with exit code 7")),
        ("raise SystemExit('no images')", Ended(reason="no images")),
        ("import os; os.kill(os.getpid(), 9)", Ended(reason=SIGKILL)),
        ("import os; os.kill(os.getpid(), 11)", Ended(reason="its process was killed by SIGSEGV")),
        ("import os; os.kill(os.getpid(), 15)", Ended(interrupted=True)),
        ("raise SystemExit(143)", Ended(interrupted=True)),
    ],
)
def test_each_end_in_words(tmp_path: Path, code: str, expected: Ended) -> None:
    assert run(tmp_path / "0", code) == expected


def test_the_reason_that_the_job_wrote_goes_before_what_it_printed(tmp_path: Path) -> None:
    (tmp_path / "failure.txt").write_text("the loss is not finite\n")
    ended = run(tmp_path, "import sys; print('epoch 3', file=sys.stderr); raise SystemExit(1)")
    assert ended == Ended(reason="the loss is not finite")
    assert (tmp_path / "errors.log").read_text() == "epoch 3\n"


def test_a_trial_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    ended = run(tmp_path, "import time; time.sleep(60)", timeout_min=0.005)
    assert ended == Ended(reason="it took longer than hydra.launcher.timeout_min=0.005")


def test_each_process_has_a_device_of_its_own_and_none_of_the_ranks_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    log = tmp_path / "log"
    children = Children(devices=["4", "7"])
    command = [sys.executable, "-c", HOLD, str(log)]
    with ThreadPoolExecutor(4) as threads:
        ends = threads.map(lambda number: children.run(command, tmp_path / str(number), {"WHO": "child"}), range(5))
        assert list(ends) == [Ended()] * 5
    held: set[str] = set()
    for sign, device in log.read_text().splitlines():
        assert (device in held) is (sign == "-")
        held ^= {device}
    assert held == set()
    assert {line[1] for line in log.read_text().splitlines()} == {"4", "7"}


def test_a_trials_command_is_read_back_whatever_its_folder_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=1,2"])
    sweep = Path("/data/Bob's runs (new)/sweep")
    words = repeated_command(["hydra.mode=MULTIRUN", "seed=1"], folder=sweep / "3", sweep=sweep, number=3)
    overrides = OverridesParser.create().parse_overrides(words[2:])
    assert {override.key_or_group: override.value() for override in overrides} == {
        "seed": 1, "hydra.mode": "RUN", "hydra.job.num": 3,
        "hydra.run.dir": str(sweep / "3"),
        "hydra.sweep.dir": str(sweep),
    }  # fmt: skip


def test_settings_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    check_settings(n_jobs=2, timeout_min=None)
    with pytest.raises(InputError, match=r"n_jobs: expected a whole number from 1 upward, received 0"):
        check_settings(n_jobs=0, timeout_min=None)
    with pytest.raises(InputError, match=r"timeout_min: expected minutes above 0, or null, received 'long'"):
        check_settings(n_jobs=1, timeout_min="long")
    assert visible_devices([0, "GPU-1"]) == ["0", "GPU-1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3")
    assert visible_devices(None) == ["2", "3"]


def test_a_job_holds_its_trial_and_leaves_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trial_of_this_job() as nothing:
        assert nothing is None
    description = dict(zip(KEYS, ([], ["loss min"], None, "study", "none", {}), strict=True))
    (tmp_path / "sweep.json").write_text(json.dumps(description))
    monkeypatch.setenv(TRIAL, f"{tmp_path}:3")
    monkeypatch.delenv(PARENT, raising=False)
    lock = FileLock(training_lock(tmp_path, 3))

    def fails() -> None:
        with trial_of_this_job() as trial:
            assert trial is None  # nothing watches it
            assert not lock.try_acquire()
            raise MemoryError("none left")

    with pytest.raises(MemoryError):
        fails()
    assert (tmp_path / "3" / "failure.txt").read_text() == "MemoryError: none left\n"
    assert lock.try_acquire()
    lock.release()
