"""Where configs are: graft's own conf/, that of the current folder, and for a check what `--config-dir` names."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from graft.config.faults import InputError

_PACKAGE = Path(__file__).resolve().parents[1]
_PLACES = (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf")
"""Where graft's own conf/ stands: in an installed package, or in the repository."""
_NAMED: ContextVar[tuple[Path, ...]] = ContextVar("config_dir", default=())


def conf_folder() -> Path:
    """graft's own conf/.

    Raises:
        InputError: the installation is without it.
    """
    for folder in _PLACES:
        if (folder / "config.yaml").is_file():
            return folder
    raise InputError(f"expected conf/config.yaml in {_PACKAGE}, received none; try installing graft again")


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
