"""A run that goes on reads its checkpoint once, whoever wants to look at it on the way."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graft.finetune.checkpoint import FOLDER
from graft.finetune.module import FineTuning

OPENED: list[str] = []
watching = False


def _reads(mode: object, flags: object) -> bool:
    """Whether open() with this mode, or os.open() with these flags, opens for reading alone."""
    if mode is not None:
        return "r" in str(mode) and "+" not in str(mode)
    return isinstance(flags, int) and flags & os.O_ACCMODE == os.O_RDONLY


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if watching and event == "open" and _reads(arguments[1], arguments[2]):
        path = Path(str(arguments[0]))
        if path.suffix == ".ckpt" and path.parent.name == FOLDER:  # not one that is still being written
            OPENED.append(path.name)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Names of the checkpoints that are opened for reading while the test runs; Python lets no hook go again."""
    global watching  # noqa: PLW0603
    if not OPENED and not getattr(sys, "graft_tests_watch_checkpoints", False):
        sys.addaudithook(_note)
        sys.graft_tests_watch_checkpoints = True  # pyright: ignore[reportAttributeAccessIssue]
    OPENED.clear()
    watching = True
    yield OPENED
    watching = False


class Killed(Exception):
    pass


@pytest.mark.parametrize("words", [(), ("optimizer.lr=find", "trainer.tune=auto")], ids=["plain", "found on copies"])
def test_a_resume_opens_the_last_checkpoint_once(
    tmp_path: Path,
    images: Path,
    run_here: Callable[..., float | None],
    monkeypatch: pytest.MonkeyPatch,
    opened: list[str],
    words: tuple[str, ...],
):
    folder = tmp_path / "run"
    command = (folder, f"data.root={images}", "trainer.max_epochs=3", "checkpoint.every_n_steps=1", *words)

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, "on_validation_epoch_start", killed)
        with pytest.raises(Killed):
            run_here(*command)
    assert opened == []
    assert (folder / "checkpoints" / "last.ckpt").exists()
    run_here(*command)
    assert opened == ["last.ckpt", "best.ckpt"]
