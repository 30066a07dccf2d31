"""The plan of a run, computed on the meta device before anything is done: immutable and printable."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """Makes `graft.plan` a package to the import system and a function to whoever calls it.

    The function is that of pipeline/session.py, which stands above this room.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return import_module("graft.pipeline.session").plan(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
