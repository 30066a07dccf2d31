"""The store of trials: Optuna's journal file, which is only ever appended to, or a database by its URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optuna import logging
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from graft.config.faults import InputError
from graft.sweep.locks import FileLock
from graft.sweep.paths import JOURNAL, LOCKS

PATIENCE = 60  # seconds that a statement waits for another process's on one SQLite file


class _JournalLock(BaseJournalFileLock):
    """Optuna's own locks are files, which SIGKILL leaves behind for half a minute."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        return self._lock.acquire()

    def release(self) -> None:
        self._lock.release()


def open_store(folder: Path, url: str | None) -> BaseStorage:
    """The store of the sweep in this folder.

    Raises:
        InputError: no such database can be opened.
    """
    if url is None:
        path = folder / JOURNAL
        _mend(path, folder / LOCKS / JOURNAL)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_JournalLock(folder / LOCKS / JOURNAL)))
    settings: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        settings["connect_args"] = {"timeout": PATIENCE}
    return _database(url, settings)


def _database(url: str, settings: dict[str, Any]) -> BaseStorage:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return RDBStorage(url, engine_kwargs=settings)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise InputError(
            f"hydra.sweeper.storage: expected the URL of a database that can be opened, received {url} ({said});"
            " try sqlite:///FILE, postgresql://USER@HOST/NAME, or null for a journal in the sweep's folder"
        ) from error


def _mend(path: Path, lock: Path) -> None:
    """Takes a torn last line off: what a machine that lost its power, or a full disk, left of an append.

    Without this the next append would complete the torn line to one that nobody can read.
    """
    if not path.exists():
        return
    guard = FileLock(lock)
    guard.acquire()
    try:
        with open(path, "rb+") as file:
            text = file.read()
            whole = text.rfind(b"\n") + 1
            if whole != len(text):
                file.truncate(whole)
    finally:
        guard.release()


def quiet() -> None:
    """Optuna would say on standard error what the sweep says itself."""
    logging.set_verbosity(logging.ERROR)
