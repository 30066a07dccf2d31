"""`graft cache list|prune`: what is said of each entry, what goes, and what a job is writing stays."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from graft.commands.cache import ago, configure, size
from graft.commands.cli import dispatch
from graft.config.faults import InputError
from graft.features.cache_folder import CacheFolder, exclusive
from graft.features.store import PARTIAL, entry_path

KEYS = ("aa" * 32, "bb" * 32, "cc" * 32)
WHAT = ("2624 features after stage7 of lite0", "90 decoded images", "12 features after layer3 of resnet18")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Three entries of 8 kB of rows each, last used one hour, three days and forty days ago."""
    folder = CacheFolder(tmp_path, max_gb=1, say=print)
    for key, what, hours in zip(KEYS, WHAT, (1, 72, 960), strict=True):
        folder.open_or_write(
            key,
            shape=(100, 20),
            dtype="float32",
            record={"what": what},
            fill=lambda writer: writer.append(torch.zeros(100, 20)),
        )
        used = time.time() - hours * 3600
        os.utime(entry_path(tmp_path, key), (used, used))
    return tmp_path


@pytest.fixture
def ask(cache: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    def run(action: str, *words: str) -> list[str]:
        assert dispatch(["cache", action, "--dir", str(cache), *words]) == 0
        return capsys.readouterr().out.splitlines()

    return run


def left(cache: Path) -> list[str]:
    return sorted(path.name[:2] for path in cache.iterdir())


def test_list_says_size_age_and_content_the_latest_used_first(cache: Path, ask: Callable[..., list[str]]) -> None:
    lines = ask("list")
    bytes_each = entry_path(cache, KEYS[0]).stat().st_size
    first = f"{size(bytes_each)} 1 h ago {WHAT[0]} (float32 100×20) {KEYS[0][:12]}"
    assert " ".join(lines[0].split()) == first
    assert ["1 h ago" in lines[0], "3 d ago" in lines[1], "40 d ago" in lines[2]] == [True] * 3
    assert lines[3] == f"{cache}: 3 entries, {size(3 * bytes_each)}"


def test_list_as_json_gives_the_record(ask: Callable[..., list[str]]) -> None:
    rows = [json.loads(row) for row in ask("list", "--json")]
    assert [row["record"]["what"] for row in rows] == list(WHAT)
    assert (rows[0]["shape"], rows[0]["dtype"], rows[0]["fault"]) == ([100, 20], "float32", None)


@pytest.mark.parametrize(
    ("words", "stay"),
    [
        ((), ["aa", "bb", "cc"]),
        (("--older-than", "2d"), ["aa"]),
        (("--older-than", "5w"), ["aa", "bb"]),
        (("--older-than", "0.5h"), []),
        (("--max-gb", "0.00003"), ["aa", "bb"]),
        (("--max-gb", "0.00003", "--older-than", "2d"), ["aa"]),
        (("--all",), []),
    ],
)
def test_prune_takes_what_the_options_say(
    cache: Path, ask: Callable[..., list[str]], words: tuple[str, ...], stay: list[str]
) -> None:
    lines = ask("prune", *words)
    assert left(cache) == stay
    assert len(lines) == 3 - len(stay) + 1
    assert f"removed {3 - len(stay)} entr" in lines[-1]


def test_what_a_job_writes_is_named_and_stays(cache: Path, ask: Callable[..., list[str]]) -> None:
    writing, ended = "dd" * 32, "ee" * 32
    for key in (writing, ended):
        (cache / f"{key}{PARTIAL}").write_bytes(b"half")
    with exclusive(cache / f"{writing}.lock", waiting=None) as held:
        assert held
        lines = ask("list")
        assert f"being written (by process {os.getpid()} on " in lines[0] + lines[1]
        assert "unusable (half-written)" in lines[0] + lines[1]
        ask("prune", "--all")
        assert left(cache) == ["dd", "dd"]  # the entry and its lock


def test_a_job_that_reads_an_entry_keeps_it(cache: Path, ask: Callable[..., list[str]]) -> None:
    entry = CacheFolder(cache, max_gb=1, say=print, resident_bytes=0).open(KEYS[0])
    assert entry is not None
    assert not entry.resident
    ask("prune", "--all")
    assert left(cache) == []
    assert torch.equal(entry.tensor, torch.zeros(100, 20))


def test_an_entry_that_goes_while_it_is_listed_is_no_entry(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sorted(cache.iterdir())
    entry_path(cache, KEYS[1]).unlink()
    monkeypatch.setattr(Path, "glob", lambda *_: iter(found))
    assert [listed.path.name[:2] for listed in CacheFolder(cache, max_gb=1, say=print).entries()] == ["aa", "cc"]


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a cache folder"):
        dispatch(["cache", "list", "--dir", str(tmp_path / "none")])


@pytest.mark.parametrize("words", [["--older-than", "30"], ["--older-than", "-1d"], ["--max-gb", "nan"]])
def test_an_age_has_a_unit_and_a_size_is_finite(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    configure(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["prune", *words])
    assert "expected" in capsys.readouterr().err


def test_sizes_and_ages_in_words() -> None:
    assert [size(count) for count in (0, 999, 1000, 13_438_976, 2.5e9)] == ["0 B", "999 B", "1 kB", "13.4 MB", "2.5 GB"]
    assert [ago(seconds) for seconds in (3, 120, 7200, 2 * 86400)] == ["just now", "2 min ago", "2 h ago", "2 d ago"]
