"""One run at a time writes a run's folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from graft.config.faults import InputError
from graft.system.files import remove_leftovers
from graft.system.locks import FileLock, NoLocks, signature
from graft.system.processes import is_first, say

FILE = ".owner"


@contextmanager
def owning(folder: Path) -> Generator[None]:
    """Within this context, another run in this folder is refused. Of a run's several processes, the first owns it.

    Raises:
        InputError: another run is writing the folder.
    """
    if not is_first():
        yield
        return
    lock = FileLock(folder / FILE, setting="hydra.run.dir")
    try:
        is_free = lock.try_acquire()
    except NoLocks as error:
        say(f"note      {error}; another run in this folder would not be noticed")
        yield
        return
    if not is_free:
        raise InputError(
            f"hydra.run.dir: expected a folder that no run is writing, received {folder}, which belongs to"
            f" {signature(lock.path)}; try another hydra.run.dir, or wait for its end"
        )
    try:
        lock.sign(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}")
        for place in (folder, folder / "model"):
            remove_leftovers(place, ".*")
        yield
    finally:
        lock.release(remove=True)
