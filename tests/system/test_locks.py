"""One kind of lock for sweeps and the cache: given back by the kernel, refused where the disk has none."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from graft.config.faults import InputError
from graft.features.cache_folder import CacheFolder, exclusive
from graft.system.locks import FileLock, holder_of, locking, signature


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


@pytest.fixture
def shared() -> Generator[Path]:
    """A folder that everyone may write, below folders that everyone may enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


def as_nobody(action: Callable[[], bool]) -> bool:
    """Carries it out in a child without root's rights."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            code = 0 if action() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_lock_is_made_for_whoever_may_write_its_folder(shared: Path) -> None:
    for mode, wanted in ((0o777, 0o666), (0o775, 0o664), (0o755, 0o644), (0o700, 0o600)):
        os.chmod(shared, mode)
        lock = FileLock(shared / f"{mode}.lock")
        before = os.umask(0o077)
        try:
            lock.acquire()
        finally:
            os.umask(before)
        assert stat.S_IMODE(lock.path.stat().st_mode) == wanted
        lock.release()


def test_a_lock_that_anothers_killed_process_left_can_be_taken(shared: Path) -> None:
    path = shared / "a.lock"
    path.touch(mode=0o444)

    def takes() -> bool:
        with exclusive(path, waiting=None) as held:
            return held and not FileLock(path).try_acquire()

    assert as_nobody(takes)
    assert not path.exists()


def test_in_a_folder_like_tmp_anothers_lock_stays_and_can_be_taken(shared: Path) -> None:
    os.chmod(shared, 0o1777)
    path = shared / "a.lock"
    path.touch(mode=0o444)

    def takes() -> bool:
        with exclusive(path, waiting=None) as held:
            return held and not FileLock(path).try_acquire()

    assert as_nobody(takes)
    assert as_nobody(takes)


def test_prune_names_what_it_may_not_remove_and_goes_on(shared: Path) -> None:
    for name in ("a", "c"):
        (shared / f"{name * 64}.graft").write_bytes(b"damaged")
    (shared / f"{'b' * 64}.graft").mkdir()
    messages: list[str] = []
    removed = CacheFolder(shared, max_gb=1, say=messages.append).prune()
    assert {listed.path.name[0] for listed in removed} == {"a", "c"}
    assert [line.partition(":")[0] for line in messages] == [f"stays    {shared / ('b' * 64)}.graft"]


@pytest.mark.parametrize("plant", ["link", "hard link", "dangling link", "fifo", "folder"])
def test_what_is_planted_by_a_locks_name_is_refused_and_left_as_it_is(tmp_path: Path, plant: str) -> None:
    victim, path = tmp_path / "victim", tmp_path / "folder.lock"
    victim.write_text("precious")
    {
        "link": lambda: path.symlink_to(victim),
        "hard link": lambda: path.hardlink_to(victim),
        "dangling link": lambda: path.symlink_to(tmp_path / "new"),
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[plant]()
    with (
        pytest.raises(InputError, match=r"cache\.dir: expected a lock's file, received .*folder\.lock"),
        exclusive(path, waiting=None),
    ):
        pass
    assert victim.read_text() == "precious"
    assert not (tmp_path / "new").exists()
    assert holder_of(path) is None


def test_what_a_lock_says_is_short_and_shows_no_control_characters(tmp_path: Path) -> None:
    (tmp_path / "a.lock").write_text("\x1b[31mred" + "x" * 10_000)
    assert signature(tmp_path / "a.lock").startswith("?[31mredx")
    assert len(signature(tmp_path / "a.lock")) == 200


def test_a_killed_process_leaves_no_lock_to_its_forked_children(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    read, write = os.pipe()
    alive, ended = os.pipe()
    parent = os.fork()
    if parent == 0:
        lock = FileLock(path)
        lock.acquire()
        if os.fork() == 0:  # a loader's worker, which outlives it by a while
            os.write(write, b"x")
            os.read(alive, 1)
            lock.release()  # which is not its own
            os._exit(0)
        os.read(alive, 1)
        os._exit(1)
    try:
        os.read(read, 1)
        assert not FileLock(path).try_acquire()
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        assert FileLock(path).try_acquire()
    finally:
        os.write(ended, b"xx")
