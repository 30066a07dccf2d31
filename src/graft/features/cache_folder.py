"""The cache folder that runs, trials and users share. Each entry is computed by one process, and the size limit is
never exceeded."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.config.faults import InputError, RunFailed
from graft.features.header import Damaged, Header, read_header
from graft.features.store import PARTIAL, SUFFIX, StoredRows, Writer, entry_bytes, entry_path, open_entry
from graft.system.locks import FileLock, holder_of, signature

LOCK = ".lock"
GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One line of `graft cache list`."""

    path: Path
    bytes: int
    used: float
    """Time when it was last opened, in seconds since 1970."""
    header: Header | None
    fault: str = ""
    """Why it is unusable, if it is."""
    writer: str = ""
    """The process that is currently writing it, if there is one."""


class CacheFolder:
    """Entries by key below one folder.

    Args:
        max_gb: upper limit of the folder's size (1 GB = 10^9 bytes).
        resident_bytes: entries of at most this size are read into memory when opened.
        say: receives a message for the user who waits.
    """

    def __init__(
        self, path: Path | str, *, max_gb: float, say: Callable[[str], None], resident_bytes: int = 1 << 30
    ) -> None:
        self.path = Path(path)
        self.max_gb = max_gb
        self.resident_bytes = resident_bytes
        self.say = say
        self._damaged: set[str] = set()

    def open(self, key: str, fits: Callable[[StoredRows], bool] = lambda entry: True) -> StoredRows | None:
        """The entry, or None if there is none or if it is damaged (with a message).

        Args:
            fits: whether an intact entry is what is expected by this key.
        """
        try:
            entry = open_entry(self.path, key, resident_bytes=self.resident_bytes)
            if entry is not None and not fits(entry):
                raise Damaged(f"{entry.path.name} holds other rows than its name stands for")
            return entry
        except Damaged as damage:
            if key not in self._damaged:
                self.say(f"the cache is damaged ({damage}): this entry is computed afresh")
            self._damaged.add(key)
            return None

    def open_or_write(
        self,
        key: str,
        *,
        shape: tuple[int, ...],
        dtype: str,
        record: Mapping[str, Any],
        fill: Callable[[Writer], None],
        fits: Callable[[StoredRows], bool] = lambda entry: True,
    ) -> StoredRows:
        """The entry. If it is missing or damaged, `fill` appends its rows, in only one process however many ask for it.

        Raises:
            InputError: it would exceed the limit or the disk, or the folder is not writable. Nothing is written.
        """

        def is_wanted(entry: StoredRows) -> bool:
            return (entry.header.shape, entry.header.dtype) == (shape, dtype) and fits(entry)

        entry = self.open(key, is_wanted)
        if entry is not None:
            return entry
        self._make()
        with exclusive(self.path / f"{key}{LOCK}", waiting=self._waiting):
            entry = self.open(key, is_wanted)
            if entry is not None:
                return entry
            if (self.path / f"{key}{PARTIAL}").exists():
                self.say("the cache holds a half-written entry of a process that has ended: it is computed afresh")
            try:
                with self._claim(key, shape, dtype, record) as writer:
                    fill(writer)
                    writer.seal()
            except BaseException:  # a signal may come when the file is made and the writer not yet in charge of it
                (self.path / f"{key}{PARTIAL}").unlink(missing_ok=True)
                raise
            entry = self.open(key, is_wanted)
        if entry is None:
            raise RunFailed(f"{self.path} gives back other bytes than were written to it; try another cache.dir")
        return entry

    def check_room(self, need: int, *, replaced: tuple[Path, ...] = ()) -> None:
        """Raises InputError unless `need` more bytes fit under the limit and on the disk."""
        total = sum(status.st_size for path, status in self._files() if path not in replaced)
        if total + need > self.max_gb * GB:
            raise InputError(
                f"cache.max_gb: expected room for {need / GB:.3g} GB below the limit of {self.max_gb:g} GB, received a "
                f"cache folder ({self.path}) that holds {total / GB:.3g} GB already; nothing was written; try"
                f" cache.max_gb={(total + need) / GB * 1.01:.3g}, cache.dtype=float16, `graft cache prune`, or"
                " cache=none"
            )
        existing = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        free = shutil.disk_usage(existing).free + sum(path.stat().st_size for path in replaced)
        if need > free:
            raise InputError(
                f"cache.dir: expected {need / GB:.3g} GB free on the disk of {self.path}, received {free / GB:.3g} GB; "
                f"nothing was written; try cache.dir=… on another disk, cache.dtype=float16, or cache=none"
            )

    def entries(self) -> list[Listed]:
        """Every entry, most recently used first. Unusable entries have a reason."""
        listing: list[Listed] = []
        for path, status in self._files():
            header, fault, writer = None, "", ""
            try:
                header = read_header(path) if path.suffix == SUFFIX else None
            except Damaged as damage:
                fault = str(damage)
            except FileNotFoundError:
                continue  # removed by another process since it was found
            if path.suffix == PARTIAL:
                fault, writer = "half-written", holder_of(path.with_suffix(LOCK)) or ""
            listing.append(
                Listed(path=path, bytes=status.st_size, used=status.st_mtime, header=header, fault=fault, writer=writer)
            )
        return sorted(listing, key=lambda listed: listed.used, reverse=True)

    def prune(self, *, max_gb: float | None = None, older_than_days: float | None = None) -> list[Listed]:
        """Removes unusable entries, entries unused for this long, and then the least recently used ones until the rest
        fits.

        Entries that another process is writing are kept. Runs that have an entry open can continue to read it. What
        this user may not remove stays, with a message.
        """
        removed: list[Listed] = []
        left = self.entries()
        total = sum(listed.bytes for listed in left)
        for listed in reversed(left):
            old = older_than_days is not None and time.time() - listed.used > older_than_days * 86400
            over = max_gb is not None and total > max_gb * GB
            if (listed.fault or old or over) and self._remove(listed.path):
                removed.append(listed)
                total -= listed.bytes
        return removed

    def _remove(self, path: Path) -> bool:
        try:
            with exclusive(path.with_suffix(LOCK), waiting=None) as is_ours:
                if is_ours:
                    path.unlink(missing_ok=True)
                return is_ours
        except (PermissionError, IsADirectoryError, InputError) as error:
            self.say(f"stays    {path}: {error.strerror if isinstance(error, OSError) else error}")
            return False

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        """Entries and unfinished files, except those that another process removes or finishes at this moment."""
        files: list[tuple[Path, os.stat_result]] = []
        for path in sorted(self.path.glob("*")):
            if path.suffix in (SUFFIX, PARTIAL):
                with suppress(FileNotFoundError):
                    files.append((path, path.stat()))
        return files

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise PermissionError("it is not writable")
        except OSError as error:
            raise InputError(
                f"cache.dir: expected a folder that can be written, received {self.path} ({error}); "
                f"try cache.dir=… elsewhere, or cache=none"
            ) from error

    def _claim(self, key: str, shape: tuple[int, ...], dtype: str, record: Mapping[str, Any]) -> Writer:
        """The writer of a new entry, with its disk space reserved. Only one process at a time checks the available
        space."""
        leftovers = (self.path / f"{key}{PARTIAL}", entry_path(self.path, key))  # half-written; damaged
        with exclusive(self.path / f"folder{LOCK}", waiting=self._waiting):
            present = tuple(path for path in leftovers if path.exists())
            self.check_room(entry_bytes(shape, dtype, record), replaced=present)
            try:
                for path in present:
                    path.unlink()
                return Writer(self.path, key, shape, dtype, record)
            except OSError as error:
                raise InputError(f"cache.dir: {self.path} did not take an entry ({error}); nothing was kept") from error

    def _waiting(self, holder: str) -> None:
        self.say(f"another process ({holder}) is computing this cache entry: waiting for it")


@contextmanager
def exclusive(path: Path, *, waiting: Callable[[str], None] | None) -> Generator[bool]:
    """Holds the lock of the file. The kernel releases it when its holder dies, however it dies.

    Args:
        waiting: called once with the holder of the lock if it is necessary to wait. None: do not wait.

    Yields:
        Whether the lock is held; False only without waiting.
    """
    lock = FileLock(path, setting="cache.dir")
    is_ours = lock.try_acquire()
    if not is_ours and waiting is not None:
        waiting(signature(path))
        is_ours = lock.acquire()
    if not is_ours:
        yield False
        return
    try:
        lock.sign(f"process {os.getpid()} on {socket.gethostname()}")
        yield True
    finally:
        lock.release(remove=True)
