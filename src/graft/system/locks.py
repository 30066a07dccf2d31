"""Locks that the kernel gives back when their process dies, however it dies.

No lock can be left behind by SIGKILL, so nothing has to guess from a heartbeat's age whether its owner lives.
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
    """Held by one process (or thread) at a time, on every machine that shares the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Waits until it is free."""
        return self._take(fcntl.LOCK_EX)

    def try_acquire(self) -> bool:
        """False where another has it."""
        return self._take(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        assert self._descriptor is not None, f"{self.path} is not held"
        # Forgotten first: as soon as it is free, a thread that waits with this same object puts its own here.
        descriptor, self._descriptor = self._descriptor, None
        # Said explicitly, because a forked child (a loader's worker) has a copy of the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    def _take(self, how: int) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise InputError(
                    f"hydra.sweep.dir: expected a file system that has locks, received {self.path.parent}, which has"
                    f" none ({error.strerror}); try a folder on another one"
                ) from None
            raise
        self._descriptor = descriptor
        return True


@contextmanager
def held(path: Path) -> Generator[None]:
    """Waits for the lock and holds it."""
    lock = FileLock(path)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()
