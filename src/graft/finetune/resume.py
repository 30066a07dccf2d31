"""Where a run goes on: which checkpoint, and its folder brought to that moment."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from graft.config.faults import InputError
from graft.config.schema import CheckpointConfig
from graft.finetune.callbacks import best_row, keep_if_best
from graft.finetune.checkpoint import BEST, FOLDER, LAST, PREVIOUS, give_name, read_checkpoint, remove_leftovers
from graft.finetune.state import STATE


def find_checkpoint(resume: str, folder: Path, say: Callable[[str], None]) -> Path | None:
    """The checkpoint that a run in this folder goes on from; where the last one is damaged, the one before it.

    Raises:
        InputError: the named one does not exist, or none of those that there are can be read.
    """
    if resume == "never":
        return None
    if resume != "auto":
        path = Path(resume)
        if not path.is_file():
            raise InputError(f"resume: expected auto, never or a checkpoint's path, received {resume!r}; try auto")
        return path
    last, previous = (folder / FOLDER / name for name in (LAST, PREVIOUS))
    try:
        if last.exists():
            read_checkpoint(last)
            return last
        damage = f"{last} is missing"
    except InputError as error:
        if not previous.exists():
            raise
        damage = str(error).split("; try")[0]
    if not previous.exists():
        return None
    read_checkpoint(previous)
    give_name(previous, LAST)
    say(f"{damage}: going on from {previous.name}, the checkpoint before it")
    return last


def prepare(path: Path | None, folder: Path, checkpoint: CheckpointConfig) -> None:
    """Brings the folder of checkpoints to where the run goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    if path is None:
        remove_leftovers(folder, (LAST, PREVIOUS, BEST))
        return
    remove_leftovers(folder)
    state = cast("Mapping[str, Any]", read_checkpoint(path).get(STATE, {}))
    history = cast("list[dict[str, Any]]", state.get("history", []))
    if path.parent.resolve() != folder.resolve():
        _bring_best(path, folder, best_row(history, checkpoint) is not None)
    elif history and state["position"][1] == 0:
        keep_if_best(folder, history, checkpoint)  # a run stopped between the two writes of an epoch's end


def _bring_best(path: Path, folder: Path, needed: bool) -> None:
    best = path.with_name(BEST)
    remove_leftovers(folder, (LAST, PREVIOUS, BEST))
    if best.exists():
        shutil.copyfile(best, folder / BEST)
    elif needed:
        raise InputError(f"resume: expected {BEST} beside {path}, received none; try resume=never")
