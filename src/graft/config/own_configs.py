"""A user's own configs: conf/ of the current folder, and what `--config-dir` names while a command line is checked."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_NAMED: ContextVar[tuple[Path, ...]] = ContextVar("config_dir", default=())


def own_folders() -> tuple[Path, ...]:
    """Absolute paths, the first to be looked through first.

    A conf/ with a config.yaml is graft's own, or another program's, and is left alone.
    """
    here = Path("conf").absolute()
    adds = here.is_dir() and not (here / "config.yaml").exists()
    return (*_NAMED.get(), *([here] if adds else []))


@contextmanager
def named_folder(folder: Path) -> Generator[None]:
    """Within it, this folder comes before the others, as Hydra itself does with --config-dir when it runs a job."""
    token = _NAMED.set((folder.absolute(), *_NAMED.get()))
    try:
        yield
    finally:
        _NAMED.reset(token)
