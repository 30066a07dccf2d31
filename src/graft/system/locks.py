"""Locks that the kernel releases when their process dies, however it dies.

SIGKILL cannot leave a lock behind, so nobody has to guess from the age of a heartbeat whether the owner is alive.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from graft.config.faults import InputError


class FileLock:
    """A lock held by one process (or thread) at a time, on every machine that shares the folder.

    Args:
        setting: the config key of the folder, for the error if its file system has no locks.
    """

    def __init__(self, path: Path, setting: str = "hydra.sweep.dir") -> None:
        self.path, self.setting = path, setting
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Waits until the lock is free."""
        return self._take(fcntl.LOCK_EX)

    def try_acquire(self) -> bool:
        """Whether the lock was free and is now held."""
        return self._take(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def sign(self, holder: str) -> None:
        """Writes the name of the holder to the file."""
        assert self._descriptor is not None, f"{self.path} is not held"
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, holder.encode(), 0)

    def release(self, *, remove: bool = False) -> None:
        """Releases the lock.

        Args:
            remove: also remove the file. A process that has opened it meanwhile notices and creates a new one.
        """
        assert self._descriptor is not None, f"{self.path} is not held"
        # Forgotten first: as soon as it is free, a thread that waits with this same object puts its own here.
        descriptor, self._descriptor = self._descriptor, None
        if remove:
            self.path.unlink(missing_ok=True)
        # Said explicitly, because a forked child (a loader's worker) has a copy of the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    def _take(self, how: int) -> bool:
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            if not self._flock(descriptor, how):
                return False
            try:
                if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                    self._descriptor = descriptor
                    return True
            except FileNotFoundError:
                pass
            os.close(descriptor)  # its last holder removed it since it was opened

    def _flock(self, descriptor: int, how: int) -> bool:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise InputError(
                    f"{self.setting}: expected a file system that has locks, received {self.path.parent}, which has"
                    f" none ({error.strerror}); try a folder on another one"
                ) from None
            raise
        return True


def holder_of(path: Path) -> str | None:
    """The current holder of the lock, as it signed; None if nobody holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return signature(path)
    finally:
        os.close(descriptor)
    return None


def signature(path: Path) -> str:
    """The name of the last holder."""
    try:
        return path.read_text(encoding="utf-8") or "unnamed"
    except FileNotFoundError:
        return "just ended"


@contextmanager
def locking(path: Path) -> Generator[None]:
    """Waits for the lock and holds it."""
    lock = FileLock(path)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()
