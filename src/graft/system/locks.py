"""Locks that the kernel releases when their process dies, however it dies.

SIGKILL cannot leave a lock behind, so nobody has to guess from the age of a heartbeat whether the owner is alive.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from graft.config.faults import InputError

SIGNATURE_BYTES = 200
_DESCRIPTORS: set[int] = set()
"""Of the locks that this process holds."""


def _close_inherited() -> None:
    """In a forked child (a loader's worker), whose copies would keep a lock when its parent has been killed."""
    for descriptor in _DESCRIPTORS:
        os.close(descriptor)
    _DESCRIPTORS.clear()


os.register_at_fork(after_in_child=_close_inherited)


class NoLocks(InputError):
    """The file system has no locks."""


class FileLock:
    """A lock held by one process (or thread) at a time, on every machine that shares the folder.

    Whoever may write the folder may take the lock, including one that another user's killed process has left.

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
        if fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:  # otherwise another user's file
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, holder.encode()[:SIGNATURE_BYTES], 0)

    def release(self, *, remove: bool = False) -> None:
        """Releases the lock.

        Args:
            remove: also remove the file. A process that has opened it meanwhile notices and creates a new one.
        """
        assert self._descriptor is not None, f"{self.path} is not held"
        # Forgotten first: as soon as it is free, a thread that waits with this same object puts its own here.
        descriptor, self._descriptor = self._descriptor, None
        if remove:
            with suppress(PermissionError):  # another user's, in a folder like /tmp
                self.path.unlink(missing_ok=True)
        if descriptor not in _DESCRIPTORS:  # this is a forked child
            return
        _DESCRIPTORS.discard(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # explicitly, because a process forked by other code may have a copy
        os.close(descriptor)

    def _take(self, how: int) -> bool:
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _open(self.path, self.setting)
            if not self._flock(descriptor, how):
                return False
            try:
                if os.path.samestat(os.fstat(descriptor), os.lstat(self.path)):
                    _DESCRIPTORS.add(descriptor)
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
                raise NoLocks(
                    f"{self.setting}: expected a file system that has locks, received {self.path.parent}, which has"
                    f" none ({error.strerror}); try a folder on another one"
                ) from None
            raise
        return True


def _open(path: Path, setting: str) -> int:
    """A descriptor of the lock's file, which is created where there is none.

    Raises:
        InputError: something else is there by this name, or a file that this user may not even read.
    """
    while True:
        try:
            descriptor = _open_present(path)
        except FileNotFoundError:
            descriptor = _create(path)
            if descriptor is None:
                continue  # another process was quicker
        except PermissionError as error:
            raise InputError(
                f"{setting}: expected locks that its users share, received {path}, which this user may not open"
                f" ({error.strerror}); try to have its owner remove it, or another folder"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise
            raise _no_lock(path, setting) from None
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
            return descriptor
        os.close(descriptor)
        raise _no_lock(path, setting)


def _open_present(path: Path) -> int:
    how = os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, os.O_RDWR | how)
    except PermissionError:
        return os.open(path, os.O_RDONLY | how)


def _create(path: Path) -> int | None:
    """Creates the file for everyone who may write the folder, whatever this process's umask."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    except FileExistsError:
        return None
    folder = os.stat(path.parent)
    with suppress(PermissionError):  # of a group that this user does not belong to
        os.fchown(descriptor, -1, folder.st_gid)
    with suppress(PermissionError):
        os.fchmod(descriptor, 0o600 | folder.st_mode & 0o066)
    return descriptor


def _no_lock(path: Path, setting: str) -> InputError:
    return InputError(
        f"{setting}: expected a lock's file, received {path}, which is a link, a folder or something else that graft"
        " did not create; try to remove it"
    )


def holder_of(path: Path) -> str | None:
    """The current holder of the lock, as it signed; None if nobody holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _signature(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def signature(path: Path) -> str:
    """The name of the last holder."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return "just ended"
    try:
        return _signature(descriptor)
    finally:
        os.close(descriptor)


def _signature(descriptor: int) -> str:
    try:
        text = os.pread(descriptor, SIGNATURE_BYTES, 0).decode(errors="replace")
    except OSError:  # a folder, a FIFO
        return "unnamed"
    return "".join(letter if letter.isprintable() else "?" for letter in text) or "unnamed"


@contextmanager
def locking(path: Path) -> Generator[None]:
    """Waits for the lock and holds it."""
    lock = FileLock(path)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()
