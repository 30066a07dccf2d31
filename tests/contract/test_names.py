"""A value's name says what it is: a participle (`found`, `known`) says what was done, and names anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src" / "graft"
PARTICIPLES = frozenset(
    {
        "asked", "drawn", "found", "given", "held", "kept", "known", "made", "meant", "said", "seen", "taken", "told",
        "written",
    }
)  # fmt: skip


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and name of whatever is named in it: variables, parameters, attributes, functions and classes."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case _:
                pass


def participles(source: str) -> list[str]:
    return [f"{line}: {name}" for line, name in names(ast.parse(source)) if name.strip("_").lower() in PARTICIPLES]


@pytest.mark.parametrize("room", sorted({path.relative_to(SRC).parts[0] for path in SRC.rglob("*.py")}))
def test_nothing_is_named_by_a_participle(room: str) -> None:
    files = [SRC / room] if room.endswith(".py") else sorted((SRC / room).rglob("*.py"))
    named = {str(path.relative_to(SRC)): participles(path.read_text(encoding="utf-8")) for path in files}
    assert {path: lines for path, lines in named.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "found = 1",
        "def f(known): ...",
        "def _told(): ...",
        "class Held: ...",
        "self.kept, other = 1, 2",
        "x = [said for said in y]",
        "if (taken := f()): ...",
        "match x:\n    case [*seen]: ...",
        "MADE = 3",
        "f = lambda given: 0",
    ],
)
def test_a_participle_is_noticed_wherever_it_names(source: str) -> None:
    assert len(participles(source)) == 1


def test_words_that_contain_one_are_none() -> None:
    assert participles("unknown, found_at, heldout = f(found=1, said=2)") == []
