"""Two runs never write one folder at the same time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.config.faults import InputError
from graft.pipeline.ownership import FILE, owning


def test_the_second_is_told_who_has_the_folder_and_since_when(tmp_path: Path) -> None:
    with owning(tmp_path):
        with pytest.raises(InputError) as caught, owning(tmp_path):
            pass
        assert re.search(
            rf"hydra\.run\.dir: .* belongs to process {os.getpid()} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d;",
            str(caught.value),
        )
    with owning(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_owns_its_folder(tmp_path: Path, run_here: Callable[..., float | None]) -> None:
    with owning(tmp_path), pytest.raises(InputError, match=r"hydra\.run\.dir: .* which belongs to process"):
        run_here(tmp_path, f"data.root={tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_stops_gives_its_folder_back(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), owning(tmp_path):
        raise KeyboardInterrupt
    with owning(tmp_path):
        pass


def test_further_processes_of_a_run_own_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with owning(tmp_path):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with owning(tmp_path):
            pass
        monkeypatch.delenv("LOCAL_RANK")
        assert (tmp_path / FILE).exists()


def test_what_a_killed_run_was_writing_goes_at_the_start(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "model"):
        (place / ".plan.json.0123456789abcdef.tmp").mkdir(parents=True)
    with owning(tmp_path):
        assert [path.name for path in tmp_path.rglob("*.tmp")] == []
