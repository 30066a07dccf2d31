"""One kind of lock for sweeps and the cache: given back by the kernel, refused where the disk has none."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from graft.config.faults import InputError
from graft.features.cache_folder import exclusive
from graft.system.locks import FileLock, holder_of, locking


def test_one_holds_it_and_has_signed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.lock"
    first, second = FileLock(path), FileLock(path)
    assert holder_of(path) is None
    assert first.try_acquire()
    assert holder_of(path) == "unnamed"
    first.sign("process 7 on there")
    assert holder_of(path) == "process 7 on there"
    assert not second.try_acquire()
    first.release()
    assert holder_of(path) is None
    assert second.try_acquire()
    second.release(remove=True)
    assert not path.exists()


def test_who_waits_for_a_file_that_is_removed_gets_the_lock_of_the_next(tmp_path: Path) -> None:
    path, taken = tmp_path / "a.lock", threading.Event()
    first, second, third = FileLock(path), FileLock(path), FileLock(path)
    first.acquire()
    waiting = threading.Thread(target=lambda: (second.acquire(), taken.set()))
    waiting.start()
    assert not taken.wait(0.1)
    first.release(remove=True)
    assert taken.wait(10)
    waiting.join()
    assert path.exists()
    assert not third.try_acquire(), "the waiter holds what others find by that name, not what was removed"
    second.release()


def test_a_forked_child_holds_nothing_on(tmp_path: Path) -> None:
    lock, path = FileLock(tmp_path / "a.lock"), tmp_path / "a.lock"
    lock.acquire()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # with a copy of the descriptor, as a loader's worker has
        os.read(read, 1)
        os._exit(0)
    try:
        lock.release()
        assert FileLock(path).try_acquire()
    finally:
        os.write(write, b"x")
        os.waitpid(child, 0)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_answered_with_the_setting_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    with (
        pytest.raises(InputError, match=r"hydra\.sweep\.dir: expected a file system that has locks"),
        locking(tmp_path / "a.lock"),
    ):
        pass
    with (
        pytest.raises(InputError, match=r"cache\.dir: expected a file system that has locks"),
        exclusive(tmp_path / "b.lock", waiting=print),
    ):
        pass
