"""One direction: a room imports from the floors below its own and from itself, never upward, never in a circle."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "graft"

# docs/architecture.md draws these.
FLOORS = (
    ("commands",),
    ("pipeline",),
    ("plan",),
    ("report", "inference", "weights", "sweep", "cluster", "audit"),
    ("heads", "finetune"),
    ("results",),
    ("transfer", "data", "features"),
    ("tasks",),
    ("models", "page", "system"),
    ("config",),
)
FLOOR = {room: height for height, floor in enumerate(reversed(FLOORS)) for room in floor}


def module_of(path: Path) -> str:
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(SRC.rglob("*.py"))}


def imports(path: Path, *, at_once: bool) -> Iterator[str]:
    """Modules of graft that a file imports.

    Args:
        at_once: leave out what functions import when they are called, and what only a type checker imports.
    """
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if at_once and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_once and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        if isinstance(node, ast.ImportFrom):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from {name if name in MODULES else str(node.module) for name in whole} & MODULES.keys()
        waiting += ast.iter_child_nodes(node)


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def graph(*, at_once: bool) -> dict[str, set[str]]:
    return {name: set(imports(path, at_once=at_once)) - {name} for name, path in MODULES.items()}


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """Names each of which leads to the next and the last to the first; empty where there is no circle."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for below in sorted(edges.get(name, ())):
            if found := walk(below, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(edges) if (found := walk(name, []))), [])


def test_no_module_is_loose() -> None:
    assert [path.name for path in SRC.glob("*.py")] == ["__init__.py"]


def test_every_room_has_a_floor() -> None:
    assert {room_of(name) for name in MODULES} - {""} <= FLOOR.keys()


@pytest.mark.parametrize("room", sorted({room_of(name) for name in MODULES} - {""}))
def test_a_room_imports_nothing_from_above(room: str) -> None:
    upward = [
        f"{name} imports {below}"
        for name, belows in graph(at_once=False).items()
        for below in belows
        if room_of(name) == room and room_of(below) and FLOOR[room_of(below)] > FLOOR[room]
    ]
    assert upward == []


def test_rooms_of_one_floor_make_no_circle() -> None:
    rooms: defaultdict[str, set[str]] = defaultdict(set)
    for name, belows in graph(at_once=False).items():
        rooms[room_of(name)] |= {room_of(below) for below in belows} - {room_of(name), ""}
    assert circle({room: belows for room, belows in rooms.items() if room}) == []


def test_modules_make_no_circle() -> None:
    assert circle(graph(at_once=True)) == []


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_the_picture_shows_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [room for room in sorted({room_of(name) for name in MODULES} - {""}) if f"`{room}/`" not in page] == []


def test_the_package_does_not_know_its_benchmarks() -> None:
    named = [
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "benchmarks"
    ]
    assert named == []


def test_only_config_knows_omegaconf() -> None:
    named = {
        room_of(name)
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        and any(
            module.split(".")[0] == "omegaconf"
            for module in (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            )
        )
    }
    assert named == {"config"}
