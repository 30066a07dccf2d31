"""Where a source file can be changed by one small step, and how it reads after it. The steps are mutmut's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_string

# What changes nothing that a test could see: types, and what only the type checker or a reader looks at.
_UNSEEN = (cst.Annotation, cst.Decorator, cst.Import, cst.ImportFrom, cst.Assert, cst.Global, cst.Nonlocal)
_UNSEEN_CALLS = {"len", "isinstance", "cast", "TypeVar"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One file with one change."""

    path: str
    """Of the file, from the repository's root."""
    line: int
    """Of what is changed, in the file as it stands."""
    lines: tuple[int, int] | None
    """First and last line of the statement around it: coverage knows no smaller part. A function's own are those of a
    value that it has by default; None for what runs once, when the file is imported, and counts for all of it.
    """
    module: cst.Module
    old: cst.CSTNode
    new: cst.CSTNode

    @property
    def source(self) -> str | None:
        """The whole file after it; None where it is no Python, or the same."""
        tree = self.module.deep_replace(self.old, self.new)
        assert isinstance(tree, cst.Module)
        return tree.code if tree.code != self.module.code and _compiles(tree.code) else None

    def __str__(self) -> str:
        before, after = (_one_line(self.module.code_for_node(node)) for node in (self.old, self.new))
        return f"{self.path}:{self.line}  {before}  ->  {after}"


def mutants_of(root: Path, path: str) -> list[Mutant]:
    """All of a file's mutants, in the order of its text."""
    visitor = _Points()
    wrapper = MetadataWrapper(cst.parse_module((root / path).read_text(encoding="utf-8")))
    wrapper.visit(visitor)
    return [Mutant(path, line, lines, wrapper.module, old, new) for old, new, line, lines in visitor.found]


class _Points(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[cst.CSTNode, cst.CSTNode, int, tuple[int, int] | None]] = []
        self._statement: tuple[int, int] | None = None
        self._functions: list[tuple[cst.FunctionDef, tuple[int, int]]] = []
        self._bodies: list[cst.CSTNode] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if _is_unseen(node):
            return False
        place = self.get_metadata(PositionProvider, node, None)
        if place is not None:
            own = (place.start.line, place.end.line)
            if isinstance(node, cst.SimpleStatementLine):
                self._statement = own
            if isinstance(node, cst.FunctionDef):
                self._functions.append((node, own))
            elif self._functions and node is self._functions[-1][0].body:
                self._bodies.append(node)
            for changed in _changed(node):
                self.found.append((node, changed, own[0], self._lines(own)))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.SimpleStatementLine):
            self._statement = None
        if self._functions and original_node is self._functions[-1][0]:
            self._functions.pop()
        if self._bodies and original_node is self._bodies[-1]:
            self._bodies.pop()

    def _lines(self, own: tuple[int, int]) -> tuple[int, int] | None:
        if len(self._functions) > len(self._bodies):  # at a function's head
            return self._functions[-1][1]
        return (self._statement or own) if self._bodies else None


def _changed(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for kind, operator in mutation_operators:
        if not isinstance(node, kind):
            continue
        if operator is operator_string:
            yield from _changed_text(node)
        else:
            yield from operator(node)


def _changed_text(node: Any) -> list[cst.CSTNode]:
    """Keys and names, once each. Sentences are not changed: what a message says is for people."""
    return [] if " " in getattr(node, "value", " ") else list(operator_string(node))[:1]


def _is_unseen(node: cst.CSTNode) -> bool:
    match node:
        case cst.Call(func=cst.Name(value=name)):
            return name in _UNSEEN_CALLS
        case cst.If(test=cst.Name(value="TYPE_CHECKING")):
            return True
        case cst.SimpleStatementLine(body=[cst.Expr(value=cst.SimpleString() | cst.ConcatenatedString())]):
            return True
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value="__all__"))]):
            return True
        case cst.ClassDef(bases=bases):
            return any(isinstance(each.value, cst.Name) and each.value.value == "Protocol" for each in bases)
        case _:
            return isinstance(node, _UNSEEN)


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def _one_line(text: str) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= 90 else f"{joined[:87]}..."
