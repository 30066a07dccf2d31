"""Finds the checkpoint to resume from, and prepares the checkpoint folder accordingly."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from graft.config.faults import InputError
from graft.config.schema import CheckpointConfig
from graft.finetune.callbacks import best_row, keep_if_best
from graft.finetune.checkpoint import BEST, FOLDER, LAST, PREVIOUS, clear, give_name, read_checkpoint
from graft.finetune.state import STATE


class Resumption:
    """The checkpoint that a run resumes from. It is searched for on first use, and read once.

    Args:
        resume: auto, never or the path of a checkpoint.
        say: receives a message for the user who waits.
    """

    def __init__(self, resume: str, folder: Path, say: Callable[[str], None]) -> None:
        self.resume, self.folder, self.say = resume, folder, say
        self._contents: dict[str, Any] | None = None

    @cached_property
    def path(self) -> Path | None:
        """The path of the last checkpoint, or of the previous one if the last is damaged. None: the run starts from the
        beginning.

        Raises:
            InputError: the named checkpoint does not exist, or none of the existing ones can be read.
        """
        if self.resume == "never":
            return None
        if self.resume != "auto":
            path = Path(self.resume)
            if not path.is_file():
                raise InputError(
                    f"resume: expected auto, never or a checkpoint's path, received {self.resume!r}; try auto"
                )
            return path
        last, previous = (self.folder / FOLDER / name for name in (LAST, PREVIOUS))
        try:
            if last.exists():
                self._contents = _read(last)
                return last
            damage = f"{last} is missing"
        except InputError as error:
            if not previous.exists():
                raise
            damage = str(error).split("; try")[0]
        if not previous.exists():
            return None
        self._contents = _read(previous)
        give_name(previous, LAST)
        self.say(f"{damage}: going on from {previous.name}, the checkpoint before it")
        return last

    def contents(self) -> Mapping[str, Any]:
        """The contents of the checkpoint, for inspection."""
        assert self.path is not None, "there is a checkpoint"
        if self._contents is None:
            self._contents = _read(self.path)
        return self._contents

    def take(self) -> dict[str, Any]:
        """The contents of the checkpoint, which the caller may change. They are not kept here any longer."""
        contents = dict(self.contents())
        self._contents = None
        return contents


ENTRIES: Mapping[str, type] = {
    "epoch": int, "global_step": int, "pytorch-lightning_version": str, "state_dict": dict, "optimizer_states": list,
}  # fmt: skip
"""What every training writes, and Lightning reads without asking."""


def _read(path: Path) -> dict[str, Any]:
    """The checkpoint, if it has the entries of one.

    Raises:
        InputError: it does not, or cannot be read.
    """
    contents = read_checkpoint(path)
    lacking = [name for name, kind in ENTRIES.items() if not isinstance(contents.get(name), kind)]
    if lacking:
        raise InputError(
            f"resume: expected a checkpoint of graft's, received {path}, which cannot be read (it has no usable"
            f" {', '.join(lacking)}); try resume=never"
        )
    return contents


def prepare(resumption: Resumption, folder: Path, checkpoint: CheckpointConfig) -> None:
    """Brings the checkpoint folder to the state from which the run resumes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = resumption.path
    if path is None:
        clear(folder, (LAST, PREVIOUS, BEST))
        return
    clear(folder)
    state = cast("Mapping[str, Any]", resumption.contents().get(STATE, {}))
    history = cast("list[dict[str, Any]]", state.get("history", []))
    if path.parent.resolve() != folder.resolve():
        _bring_best(path, folder, best_row(history, checkpoint) is not None)
    elif history and state["position"][1] == 0:
        keep_if_best(folder, history, checkpoint)  # a run stopped between the two writes of an epoch's end


def _bring_best(path: Path, folder: Path, needed: bool) -> None:
    best = path.with_name(BEST)
    clear(folder, (LAST, PREVIOUS, BEST))
    if best.exists():
        shutil.copyfile(best, folder / BEST)
    elif needed:
        raise InputError(f"resume: expected {BEST} beside {path}, received none; try resume=never")
