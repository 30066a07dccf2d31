"""Lists of images as users write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def rows(folder: str = ".", split: bool = False) -> Iterator[dict[str, Any]]:
    for path in sorted(Path(folder).rglob("*.png")):
        yield {"path": path, "label": path.parent.name, **({"split": "val"} if split and path.stem == "0" else {})}


def pairs(folder: str) -> list[tuple[Path, str]]:
    return [(path, path.parent.name) for path in sorted(Path(folder).rglob("*.png"))]


def tensors() -> list[Any]:
    return [0.5, 0.25]


def broken() -> Iterator[dict[str, Any]]:
    yield {"path": "a.png", "label": {}["label"]}
