"""The plan of a run, computed on the meta device before anything is done: immutable and printable."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """Makes the package `graft.plan` callable.

    The function is `graft.pipeline.session.plan`, which is in a higher room and therefore imported on the first call.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return import_module("graft.pipeline.session").plan(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
