"""Recognises torchvision's and timm's models by the names and shapes of their tensors, without building them.

architectures.csv has one row per model: the number of tensors in its trunk, the sums of their hashes (by name and
shape, and by shape alone), its last layers and its top modules. A sum does not depend on the order, and the last layer
of a file can be subtracted from it. `scripts/index_architectures.py` writes the table on the meta device.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from graft.models.stages import is_counter

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

TABLE = "architectures.csv"
COLUMNS = ("library", "name", "tensors", "by_name", "by_shape", "heads", "modules")
_MODULUS = 2**64
_BUILT = 4
"""How many models are built for comparison if none matches exactly; each takes between a tenth of a second and two
seconds."""
_LIKE = 0.5


@dataclass(frozen=True, slots=True)
class Architecture:
    """A row of the table."""

    library: str
    name: str
    tensors: int
    by_name: int
    by_shape: int
    heads: tuple[str, ...]
    """Modules whose shape depends on the number of classes."""
    modules: frozenset[str]
    """The first parts of the names in the trunk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """A model that the tensors may belong to."""

    library: str
    name: str
    kind: str
    """equal: the trunk's names and shapes match; shapes: they match under other names; part: some match."""
    matched: int
    """Number of matching tensors of the trunk without counters; for `shapes`, matching by shape only."""
    of: int
    classes: int | None = None
    """Number of rows of the file's own last layer, if it has one."""


def row_of(library: str, name: str, shapes: Shapes, classes: int) -> Architecture:
    """The row of a model that was built with a number of classes that occurs nowhere else in it."""
    weights = {tensor: shape for tensor, shape in shapes.items() if not is_counter(tensor)}
    changing = [tensor for tensor, shape in weights.items() if classes in shape]
    trunk = {tensor: shape for tensor, shape in weights.items() if tensor not in changing}
    return Architecture(
        library=library,
        name=name,
        tensors=len(trunk),
        by_name=_sum(_named(*item) for item in trunk.items()),
        by_shape=_sum(map(_shaped, trunk.values())),
        heads=tuple(dict.fromkeys(tensor.rpartition(".")[0] for tensor in changing)),
        modules=frozenset(tensor.partition(".")[0] for tensor in trunk),
    )


def recognise(shapes: Shapes) -> list[Likeness]:
    """Models with these tensors: exact matches, otherwise matches by shape, otherwise the most similar ones, best
    first.

    Args:
        shapes: the shape of every tensor by its name, without wrapper prefixes.
    """
    weights = {name: shape for name, shape in shapes.items() if not is_counter(name)}
    rows = table()
    return list(_equal(weights, rows)) or list(_equal_in_shape(weights, rows)) or _alike(weights, rows)


@cache
def table() -> tuple[Architecture, ...]:
    """All rows of architectures.csv."""
    lines = files("graft.models").joinpath(TABLE).read_text(encoding="utf-8").splitlines()
    return tuple(_parsed(row) for row in csv.DictReader(line for line in lines if not line.startswith("#")))


def row_cells(row: Architecture) -> list[str]:
    """The cells of the row in the table."""
    sums = (f"{row.by_name:016x}", f"{row.by_shape:016x}")
    return [row.library, row.name, str(row.tensors), *sums, " ".join(row.heads), " ".join(sorted(row.modules))]


def _parsed(row: Mapping[str, str]) -> Architecture:
    return Architecture(
        library=row["library"],
        name=row["name"],
        tensors=int(row["tensors"]),
        by_name=int(row["by_name"], 16),
        by_shape=int(row["by_shape"], 16),
        heads=tuple(row["heads"].split()),
        modules=frozenset(row["modules"].split()),
    )


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _named(name: str, shape: Shape) -> int:
    return _hash(f"{name} {shape}")


@cache
def _shaped(shape: Shape) -> int:
    return _hash(str(shape))


def _sum(hashes: Iterable[int]) -> int:
    return sum(hashes) % _MODULUS


def _equal(shapes: Shapes, rows: Sequence[Architecture]) -> Iterator[Likeness]:
    whole = _sum(_named(*item) for item in shapes.items())
    trunks: dict[tuple[str, ...], tuple[int, int, int | None]] = {}  # few heads occur, in hundreds of rows
    for row in rows:
        if row.heads not in trunks:
            own = {name: shape for name, shape in shapes.items() if name.rpartition(".")[0] in row.heads}
            without = (whole - _sum(_named(*item) for item in own.items())) % _MODULUS
            classes = next((shape[0] for shape in own.values() if shape), None)
            trunks[row.heads] = (len(shapes) - len(own), without, classes)
        tensors, by_name, classes = trunks[row.heads]
        if (tensors, by_name) == (row.tensors, row.by_name):
            yield Likeness(
                library=row.library, name=row.name, kind="equal", matched=tensors, of=tensors, classes=classes
            )  # fmt: skip


def _equal_in_shape(shapes: Shapes, rows: Sequence[Architecture]) -> Iterator[Likeness]:
    """Matches by shape. The last layer's name is unknown, so every linear layer is tried as the last one."""
    whole = _sum(map(_shaped, shapes.values()))
    without: dict[tuple[int, int], int | None] = {(len(shapes), whole): None}
    for name, weight in shapes.items():
        bias = shapes.get(name.removesuffix("weight") + "bias") if name.endswith("weight") else None
        if len(weight) == 2 and bias == weight[:1]:
            rest = (whole - _shaped(weight) - _shaped(bias)) % _MODULUS
            without[len(shapes) - 2, rest] = weight[0]
    for row in rows:
        key = (row.tensors, row.by_shape)
        if key in without:
            yield Likeness(
                library=row.library, name=row.name, kind="shapes", matched=row.tensors, of=row.tensors,
                classes=without[key],
            )  # fmt: skip


def _alike(shapes: Shapes, rows: Sequence[Architecture]) -> list[Likeness]:
    """Models with the same top modules and a similar number of tensors, built and compared tensor by tensor."""
    modules = {name.partition(".")[0] for name in shapes}

    def promise(row: Architecture) -> float:
        shared = len(modules & row.modules) / len(modules | row.modules)
        return shared - abs(len(shapes) - row.tensors) / max(len(shapes), row.tensors)

    likely = sorted((row for row in rows if promise(row) > 0), key=promise, reverse=True)[:_BUILT]
    candidates = (_compared(shapes, row) for row in likely)
    return sorted(
        (each for each in candidates if each.matched >= _LIKE * each.of), key=lambda each: -each.matched / each.of
    )


def _compared(shapes: Shapes, row: Architecture) -> Likeness:
    from graft.config.choices import Library
    from graft.models.backbones import construct

    module = construct(Library(row.library), row.name, {}, num_classes=2, device="meta")
    trunk = {
        name: tuple(value.shape)
        for name, value in module.state_dict().items()
        if not is_counter(name) and name.rpartition(".")[0] not in row.heads
    }
    further = sum(name not in trunk and name.rpartition(".")[0] not in row.heads for name in shapes)
    matched = sum(shapes.get(name) == shape for name, shape in trunk.items())
    return Likeness(library=row.library, name=row.name, kind="part", matched=matched, of=len(trunk) + further)
