"""What lies where in a sweep's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from graft.config.faults import InputError

DESCRIPTION = "sweep.json"
"""The command, the objectives, the store and the pruner: what a trial's job and `graft report` must know."""
KEYS = ("command", "objectives", "storage", "study", "pruner", "pruner_options")
JOURNAL = "journal.log"
LOCKS = ".locks"


def caring_lock(folder: Path, number: int) -> Path:
    """Held by the sweep that looks after a trial."""
    return folder / LOCKS / f"{number}.sweep"


def training_lock(folder: Path, number: int) -> Path:
    """Held by the job that runs a trial."""
    return folder / LOCKS / f"{number}.job"


def read_description(folder: Path) -> dict[str, Any]:
    """What sweep.json says.

    Raises:
        InputError: this is no sweep's folder, or the file is damaged.
    """
    path = folder / DESCRIPTION
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{folder}: expected a sweep's folder ({DESCRIPTION}), received"
            f" {'a folder without it' if folder.is_dir() else 'no folder'}; try one below outputs/sweeps/"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, received something else ({error}); try the sweep again") from error
    lacking = [key for key in KEYS if not isinstance(told, dict) or key not in told]
    if lacking:
        raise InputError(f"{path}: expected {', '.join(KEYS)}, received none of {lacking[0]}; try the sweep again")
    return cast("dict[str, Any]", told)
