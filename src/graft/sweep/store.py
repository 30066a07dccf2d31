"""The store of trials: Optuna's append-only journal file, or a database given by its URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from optuna import logging
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from graft.config.faults import InputError
from graft.sweep.record import JOURNAL, LOCKS
from graft.system.locks import FileLock

PATIENCE = 60  # seconds that a statement waits for another process's on one SQLite file


class _JournalLock(JournalFileOpenLock):
    """The lock for appending a line. Optuna's own locks are files, which a SIGKILL leaves behind for half a minute.

    After acquiring it, a process first removes an incomplete last line that a killed process has left. Otherwise the
    next append would turn it into an unreadable line.
    """

    def __init__(self, path: Path, journal: Path) -> None:
        self._lock, self._journal = FileLock(path), journal

    def acquire(self) -> bool:
        acquired = self._lock.acquire()
        _mend(self._journal)
        return acquired

    def release(self) -> None:
        self._lock.release()


def open_store(folder: Path, url: str | None) -> BaseStorage:
    """The store of the sweep in this folder.

    Raises:
        InputError: the database cannot be opened.
    """
    if url is None:
        path = folder / JOURNAL
        lock = _JournalLock(folder / LOCKS / JOURNAL, path)
        if path.exists():
            lock.acquire()
            lock.release()
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    settings: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        settings["connect_args"] = {"timeout": PATIENCE}
    return _database(url, settings)


def _database(url: str, settings: dict[str, Any]) -> BaseStorage:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return RDBStorage(url, engine_kwargs=settings)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"hydra.sweeper.storage: expected the URL of a database that can be opened, received {url} ({reason});"
            " try sqlite:///FILE, postgresql://USER@HOST/NAME, or null for a journal in the sweep's folder"
        ) from error


def _mend(path: Path) -> None:
    """Removes an incomplete last line, which a killed process or a full disk has left."""
    with open(path, "rb+") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def quiet() -> None:
    """Silences Optuna's messages on standard error, which repeat those of the sweep."""
    logging.set_verbosity(logging.ERROR)
