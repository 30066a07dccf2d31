"""The shared folder: computed once, never beyond the limit, mended where it is damaged."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from graft.config.faults import InputError
from graft.features.cache_folder import CacheFolder, exclusive
from graft.features.store import PARTIAL, StoredRows, Writer, entry_bytes, entry_path
from graft.system.stopping import Stopped

KEY, OTHER = "ab" * 32, "cd" * 32
ROWS = torch.arange(2000.0).view(100, 20)


def folder(path: Path, *, max_gb: float = 1.0, said: list[str] | None = None) -> CacheFolder:
    return CacheFolder(path, max_gb=max_gb, say=(said if said is not None else []).append)


def ask(cache: CacheFolder, key: str = KEY, fill: Callable[[Writer], None] | None = None) -> StoredRows:
    return cache.open_or_write(
        key, shape=(100, 20), dtype="float32", record={}, fill=fill or (lambda writer: writer.append(ROWS))
    )


def refuse(_: Writer) -> None:
    pytest.fail("computed again")


def test_computed_once_then_read(tmp_path: Path) -> None:
    assert torch.equal(ask(folder(tmp_path / "deep" / "cache")).tensor, ROWS)
    assert torch.equal(ask(folder(tmp_path / "deep" / "cache"), fill=refuse).tensor, ROWS)
    assert [path.name for path in (tmp_path / "deep" / "cache").iterdir()] == [f"{KEY}.graft"]


def test_a_failed_computation_leaves_nothing(tmp_path: Path) -> None:
    def fail(writer: Writer) -> None:
        writer.append(ROWS[:50])
        raise KeyError("an image")

    with pytest.raises(KeyError):
        ask(folder(tmp_path), fill=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_before_the_writer_is_in_charge_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(writer: Writer) -> Writer:
        writer._file.close()
        raise Stopped(signal.SIGUSR1)

    monkeypatch.setattr(Writer, "__enter__", stopped)
    with pytest.raises(Stopped):
        ask(folder(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_entry_is_said_and_computed_afresh(tmp_path: Path) -> None:
    ask(folder(tmp_path))
    path = entry_path(tmp_path, KEY)
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 64
    path.write_bytes(whole)
    said: list[str] = []
    assert torch.equal(ask(folder(tmp_path, said=said)).tensor, ROWS)
    assert len(said) == 1
    assert "damaged" in said[0]
    assert "block 1 of 1" in said[0]
    assert torch.equal(ask(folder(tmp_path), fill=refuse).tensor, ROWS)


def test_a_half_written_entry_is_said_and_computed_afresh(tmp_path: Path) -> None:
    (tmp_path / f"{KEY}{PARTIAL}").write_bytes(b"graftar1 and then the process was killed")
    said: list[str] = []
    assert torch.equal(ask(folder(tmp_path, said=said)).tensor, ROWS)
    assert ["half-written" in line for line in said] == [True]
    assert [path.name for path in tmp_path.iterdir()] == [f"{KEY}.graft"]


def test_the_limit_holds_and_nothing_is_written(tmp_path: Path) -> None:
    need = entry_bytes((100, 20), "float32", {})
    with pytest.raises(InputError, match=r"cache\.max_gb=") as refusal:
        ask(folder(tmp_path / "cache", max_gb=(need - 1) / 1e9), fill=refuse)
    assert f"{need / 1e9:.3g} GB" in str(refusal.value)
    assert list((tmp_path / "cache").iterdir()) == []
    ask(folder(tmp_path / "cache", max_gb=need / 1e9))
    with pytest.raises(InputError, match="graft cache prune"):
        ask(folder(tmp_path / "cache", max_gb=1.5 * need / 1e9), key=OTHER, fill=refuse)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{KEY}.graft"]


def test_a_damaged_entry_makes_room_for_its_successor(tmp_path: Path) -> None:
    need = entry_bytes((100, 20), "float32", {})
    ask(folder(tmp_path))
    os.truncate(entry_path(tmp_path, KEY), need - 1)
    assert torch.equal(ask(folder(tmp_path, max_gb=need / 1e9)).tensor, ROWS)


def test_more_than_the_disk_holds_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="free on the disk"):
        folder(tmp_path / "cache", max_gb=1e12).check_room(1 << 60)
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cache\.dir"):
        ask(folder(tmp_path / "file" / "cache"))


def compute_slowly(path: Path, log: Path, started: Path) -> None:
    def fill(writer: Writer) -> None:
        with open(log, "a") as lines:
            lines.write(f"{os.getpid()}\n")
        started.touch()
        time.sleep(0.5)
        writer.append(ROWS)

    assert torch.equal(ask(folder(path), fill=fill).tensor, ROWS)


def compute_for_ever(path: Path, started: Path) -> None:
    def fill(writer: Writer) -> None:
        writer.append(ROWS[:10])
        started.touch()
        time.sleep(600)

    ask(folder(path), fill=fill)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def test_two_processes_compute_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    log, started = tmp_path / "log", tmp_path / "started"
    first = spawn.Process(target=compute_slowly, args=(tmp_path / "cache", log, started))
    first.start()
    wait_for(started)
    said: list[str] = []
    assert torch.equal(ask(folder(tmp_path / "cache", said=said), fill=refuse).tensor, ROWS)
    first.join()
    assert first.exitcode == 0
    assert log.read_text() == f"{first.pid}\n"
    assert [f"process {first.pid}" in line for line in said] == [True]


def test_a_killed_writer_blocks_nobody(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    writer = spawn.Process(target=compute_for_ever, args=(tmp_path / "cache", tmp_path / "started"))
    writer.start()
    wait_for(tmp_path / "started")
    writer.kill()
    writer.join()
    said: list[str] = []
    assert torch.equal(ask(folder(tmp_path / "cache", said=said)).tensor, ROWS)
    assert ["half-written" in line for line in said] == [True]


def test_a_lock_is_held_by_one_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    with exclusive(path, waiting=None) as first, exclusive(path, waiting=None) as second:
        assert (first, second) == (True, False)
    assert not path.exists()
    with exclusive(path, waiting=None) as again:
        assert again


def test_entries_are_listed_with_what_they_are(tmp_path: Path) -> None:
    cache = folder(tmp_path)
    ask(cache)
    ask(cache, key=OTHER)
    os.utime(entry_path(tmp_path, KEY), (1, 1))
    entry_path(tmp_path, "ef" * 32).write_bytes(b"junk")
    listed = {line.path.name[:2]: line for line in cache.entries()}
    assert [line.path.name[:2] for line in cache.entries()][-1] == "ab"
    assert listed["ab"].header is not None
    assert listed["ab"].header.shape == (100, 20)
    assert listed["ab"].bytes == entry_bytes((100, 20), "float32", {})
    assert listed["ef"].header is None
    assert "not a cache entry" in listed["ef"].fault


def test_prune_removes_the_useless_and_the_longest_unused_first(tmp_path: Path) -> None:
    cache = folder(tmp_path)
    keys = [digit * 64 for digit in "123"]
    for age, key in enumerate(keys):
        ask(cache, key=key)
        os.utime(entry_path(tmp_path, key), (time.time() - 1000 + age, time.time() - 1000 + age))
    (tmp_path / f"{OTHER}{PARTIAL}").write_bytes(b"left behind")
    size = entry_bytes((100, 20), "float32", {})
    assert {line.path.stem for line in cache.prune()} == {OTHER}
    assert [line.path.stem for line in cache.prune(max_gb=2 * size / 1e9)] == [keys[0]]
    assert [line.path.stem for line in cache.prune(older_than_days=1 / 86400)] == [keys[1], keys[2]]
    assert list(tmp_path.iterdir()) == []


def test_prune_spares_what_is_being_written(tmp_path: Path) -> None:
    cache = folder(tmp_path)

    def fill(writer: Writer) -> None:
        assert cache.prune(max_gb=0) == []
        writer.append(ROWS)

    assert torch.equal(ask(cache, fill=fill).tensor, ROWS)
