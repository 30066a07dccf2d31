"""A process that dies amid the training ends the run of all of them, with the reason."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from torch import distributed

from graft.config.faults import RunFailed, said
from graft.finetune.checkpoint import FOLDER, LAST

GLOO = "gloo/transport"  # in what its errors say, which have no type of their own


@contextmanager
def told_when_lost(folder: Path) -> Generator[None]:
    """Within it, a collective that the others have left is told as what it is.

    Raises:
        RunFailed: another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, distributed.DistError) or GLOO in str(error)):
            raise
        last = folder / FOLDER / LAST
        kept = f"{last} holds everything up to here" if last.exists() else "nothing had been saved yet"
        raise RunFailed(
            f"another process of this run was lost: killed, out of memory, or its machine is gone ({said(error)});"
            f" {kept}, and the same command goes on"
        ) from error
