"""Of third parties, src uses public names alone, but for those in a file that is there for one of them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"
OURS = ("graft", "hydra_plugins", "benchmarks")
ALLOWED = {
    "graft/cluster/submitit_text.py": {"_make_submission_file_text", "_submitit_command_str"},
    "graft/config/hydra_callbacks.py": {"hydra._internal.callbacks"},
}
"""Each falls back to something that it says where the name is gone, which its test tries."""
SOURCES = {str(path.relative_to(SRC)): ast.parse(path.read_text(encoding="utf-8")) for path in SRC.rglob("*.py")}


def is_private(name: str) -> bool:
    """`_target_` is a key of Hydra's, `__name__` Python's own."""
    return name.startswith("_") and not name.endswith("_")


def defined(tree: ast.Module) -> set[str]:
    """Names that the file gives to something of its own."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and owner(node) == "self":
            names.add(node.attr)
    return names


def texts(node: ast.AST) -> list[str]:
    """Those in it, but for parts of a longer one that is put together."""
    if isinstance(node, ast.JoinedStr):
        return []
    return [each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def owner(node: ast.Attribute) -> str:
    return ast.unparse(node.value)


EVERYWHERE = frozenset[str]().union(*(defined(tree) for tree in SOURCES.values()))


def private_names(tree: ast.Module) -> Iterator[str]:
    """Private names of others: imported, taken off an object, or spelt out as text for getattr or an import path."""
    own = defined(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if any(map(is_private, each.name.split("."))))
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            ours = node.level or module.split(".")[0] in OURS
            for name in () if ours or module == "__future__" else (each.name for each in node.names):
                if any(map(is_private, module.split("."))):
                    yield module
                elif is_private(name):
                    yield name
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            inherited = owner(node) in ("self", "cls", "super()") and node.attr in EVERYWHERE
            standard = owner(node).split(".")[0] in sys.stdlib_module_names
            if not (inherited or standard or node.attr in own):
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "delattr"):
            yield from (name for name in texts(node.args[1]) if is_private(name) and name not in own)
        elif isinstance(node, ast.Constant):
            paths = (text.split(".") for text in texts(node) if re.fullmatch(r"[A-Za-z]\w*(\.\w+)+", text))
            yield from (".".join(path) for path in paths if path[0] not in OURS and any(map(is_private, path)))


@pytest.mark.parametrize("path", sorted(SOURCES))
def test_only_public_names_of_third_parties_are_used(path: str):
    assert set(private_names(SOURCES[path])) == ALLOWED.get(path, set())


@pytest.mark.parametrize(
    "text",
    [
        "from lightning.pytorch.loops.fetchers import _DataFetcher",
        "from hydra._internal.utils import get_args_parser",
        "import optuna.storages.journal._file",
        "def f(trial): return trial._trial_id",
        "def f(study): return study._storage.get_trial(0)",
        "def f(executor): return getattr(executor, '_submitit_command_str')",
        "LAUNCHER = 'hydra._internal.core_plugins.basic_launcher.BasicLauncher'",
        "class A(Base):\n    def f(self): return self._nobody_here_has_this",
    ],
)
def test_a_private_name_is_found_however_it_is_reached(text: str):
    assert list(private_names(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "class A:\n    def __init__(self): self._own = 1\n    def f(self, other): return self._own + other._own",
        "import os\ndef f(): os._exit(1)",
        "def f(cfg): return cfg.hydra.launcher._target_",
        "from graft.somewhere import _ours",
    ],
)
def test_what_is_ours_or_pythons_is_no_matter(text: str):
    assert not list(private_names(ast.parse(text)))
