"""How many images each class has in each part, and which of these numbers are trouble."""

from __future__ import annotations

from collections.abc import Iterator

from graft.data.table import PARTS, Table

FEW = 5
UNEVEN = 10
"""Images of the largest class for each of the smallest, from which on that is said."""


def counts_by_class(table: Table) -> dict[str, dict[str, int]]:
    """Class to part to number of images; parts without images are left out."""
    parts = {part: table.counts(part) for part in PARTS if table.part(part)}
    return {name: {part: counts[at] for part, counts in parts.items()} for at, name in enumerate(table.classes)}


def cautions(table: Table) -> Iterator[str]:
    """A sentence on each class that is small, and on classes of very different sizes."""
    train = dict(zip(table.classes, table.counts("train"), strict=True))
    for name, count in train.items():
        if count < FEW:
            yield f"class {name} has {count} training image{'' if count == 1 else 's'}: its figures say little"
    largest, smallest = max(train, key=lambda name: train[name]), min(train, key=lambda name: train[name])
    if train[smallest] and train[largest] >= UNEVEN * train[smallest]:
        yield (
            f"class {largest} has {train[largest]} training images and {smallest} has {train[smallest]}: go by macro-F1"
            " rather than accuracy, and try data.balanced=true"
        )
