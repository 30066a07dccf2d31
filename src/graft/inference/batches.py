"""Images through a network, batch by batch. The images of the next batch are read in the meantime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

from graft.config.faults import InputError

Item = TypeVar("Item")
Reading = Future[torch.Tensor | str]


def rows_of(
    items: Iterable[tuple[str, Item]],
    read: Callable[[Item], torch.Tensor],
    compute: Callable[[Sequence[torch.Tensor]], torch.Tensor],
    *,
    batch_size: int = 32,
    threads: int = 4,
) -> Iterator[tuple[str, torch.Tensor | str]]:
    """Yields each item's name with its row, or with the reason why it cannot be read.

    Args:
        items: a name and an image each.
        read: what the network takes of an image. Raises InputError for one that cannot be read.
        compute: a row for each of the tensors of a batch.
        threads: number of threads that read images.
    """
    names = iter(items)
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:

        def submit() -> list[tuple[str, Reading]]:
            return [(name, pool.submit(_read, read, item)) for name, item in islice(names, batch_size)]

        waiting = submit()
        while waiting:
            following = submit()
            yield from _computed([(name, reading.result()) for name, reading in waiting], compute)
            waiting = following


def _read(read: Callable[[Item], torch.Tensor], item: Item) -> torch.Tensor | str:
    try:
        return read(item)
    except InputError as error:
        return str(error)


def _computed(
    batch: Sequence[tuple[str, torch.Tensor | str]], compute: Callable[[Sequence[torch.Tensor]], torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor | str]]:
    images = [image for _, image in batch if isinstance(image, torch.Tensor)]
    rows = iter(compute(images) if images else ())
    for name, image in batch:
        yield name, image if isinstance(image, str) else next(rows)
