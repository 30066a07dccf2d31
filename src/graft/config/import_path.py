"""Objects of a user's own by their import path: `package.module:name`, or with a dot before the name."""

from __future__ import annotations

import importlib
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from graft.config.faults import PACKAGE, InputError, RunFailed, nearest, one_line

FORM = "an import path, as package.module:name"


def is_import_path(path: Any) -> bool:
    """Whether the text has the form of one."""
    module, name = _split(str(path))
    words = [*module.split("."), *name.split(".")]
    return bool(module and name) and all(word.isidentifier() for word in words)


def is_found(path: str) -> bool:
    """Whether the topmost package of an import path can be found. Nothing is imported."""
    top = _split(path)[0].partition(".")[0]
    try:
        return top in sys.modules or find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def import_object(key: str, path: str) -> Any:
    """What the path names.

    Args:
        key: the config's, for the message.

    Raises:
        InputError: the module cannot be imported, or has no such name. An exception of the module's own code is shown
            with the place that it comes from.
    """
    module, name = _split(path)
    with OwnCode(f"{key}: expected {module} to be imported"):
        try:
            value: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            missing = str(error.name)
            if module != missing and not module.startswith(f"{missing}."):
                raise
            raise InputError(
                f"{key}: expected a module that can be imported, received {path}: there is no module {missing} in "
                f"{Path.cwd()} or among the installed packages; try the folder that {missing.partition('.')[0]} lies in"
            ) from error
    for part in name.split("."):
        if not hasattr(value, part):
            close = nearest(part, [each for each in vars(value) if not each.startswith("_")])
            remedy = f"; try {' or '.join(f'{module}:{each}' for each in close)}" if close else ""
            raise InputError(f"{key}: expected a name of {module}, received {name!r}, which it does not have{remedy}")
        value = getattr(value, part)
    return value


def call_object(key: str, path: str, /, *arguments: Any, **keywords: Any) -> Any:
    """Calls what the path names.

    Raises:
        InputError: as `import_object` does, or it cannot be called, does not take these arguments, or fails. The
            exception of the user's code is shown with the place that it comes from.
    """
    function = import_object(key, path)
    check_callable(key, path, function)
    check_arguments(key, path, function, arguments, keywords)
    with OwnCode(f"{key}: expected {path} to return"):
        return function(*arguments, **keywords)


def function_of(key: str, path: str, kwargs: Mapping[str, Any], /, *example: Any) -> Callable[..., Any]:
    """A function of a user's own with its further arguments: a class is made with them, and called.

    Args:
        example: what a function will be called with; whether it takes so much is checked.

    Raises:
        InputError: as `call_object` does.
    """
    target = import_object(key, path)
    if isinstance(target, type):
        function = call_object(key, path, **kwargs)
        check_callable(key, path, function)
        return function
    check_callable(key, path, target)
    check_arguments(key, path, target, example, kwargs)
    return partial(target, **kwargs)


def check_callable(key: str, path: str, function: Any) -> None:
    """Raises InputError for what is neither a function nor a class."""
    if not callable(function):
        raise InputError(
            f"{key}: expected a function or class, received {path}, which is a {type(function).__name__}; try one that "
            "makes it"
        )


def check_arguments(
    key: str, path: str, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> None:
    """Raises InputError if a function does not take the arguments; one whose parameters are unknown is just called."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        values = ", ".join([*(type(each).__name__ for each in arguments), *(f"{name}=…" for name in keywords)])
        raise InputError(
            f"{key}: expected {path} to take ({values}), received one that takes {signature}: "
            f"{one_line(error)}{_other_arguments(key)}"
        ) from error


class OwnCode:
    """Around code of the user's own: any exception of it becomes an InputError that shows where it was raised.

    Such code may raise anything, and none of it is a mistake of graft's.
    """

    def __init__(self, expected: str) -> None:
        self._expected = expected

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        if isinstance(error, Exception) and not isinstance(error, InputError | RunFailed | MemoryError):
            raise _broken(self._expected, error) from error
        return False


def _other_arguments(key: str) -> str:
    return f"; try other {key.removesuffix('.target')}.kwargs" if key.endswith(".target") else ""


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function names a parameter so."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return name in parameters and parameters[name].kind is not inspect.Parameter.POSITIONAL_ONLY


def path_of(name: str, function: Any) -> str:
    """The import path of a function or class, for a config.

    Raises:
        InputError: it has none, as a lambda, a function inside another one, or an instance.
    """
    module, inside = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not module or not inside or "<" in inside or not callable(function):
        raise InputError(
            f"{name}: expected a function or class at the top level of a module, which a resumed or reopened run can "
            f"import, received {function!r:.80}; try a function in a file that returns it"
        )
    return f"{module}:{inside}"


def _split(path: str) -> tuple[str, str]:
    if ":" in path:
        module, _, name = path.partition(":")
        return module, name
    module, _, name = path.rpartition(".")
    return module, name


def _broken(expected: str, error: BaseException) -> InputError:
    """The message, with the lines of the traceback that lie in the user's own files (otherwise the last one)."""
    frames = traceback.extract_tb(error.__traceback__)
    installed = (str(PACKAGE), str(Path(traceback.__file__).parent))
    own = [frame for frame in frames if not frame.filename.startswith((*installed, "<"))] or list(frames)[-1:]
    lines = [
        f"  {frame.filename}, line {frame.lineno}, in {frame.name}: "
        f"{frame.line or linecache.getline(frame.filename, frame.lineno or 0).strip()}"
        for frame in own[-3:]
    ]
    return InputError("\n".join([f"{expected}, received {type(error).__name__}: {one_line(error)}", *lines]))
