"""The samples of each batch, and the random numbers of each sample, as pure functions of (seed, epoch, sample).

A batch is a list of keys. A key has everything that a worker needs, so results do not depend on which process handles
it, or when.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import NamedTuple

import numpy as np
import torch

from graft.config.faults import InputError


class Key(NamedTuple):
    """Identifies one draw of a sample in an epoch."""

    epoch: int
    sample: int
    """Index among the part's samples."""
    draw: int = 0
    """0 for the first draw of the sample in the epoch, 1 for the second. Balanced sampling repeats rare classes."""


def derive(*values: int | str) -> int:
    """A 63-bit seed from a hash of plain values, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(values).encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def keyed_randomness(seed: int, key: Key) -> Generator[None]:
    """A context in which torch's CPU generator is seeded by seed and key. Its state is restored on exit."""
    with drawn_from(derive(seed, *key)):
        yield


@contextmanager
def drawn_from(seed: int) -> Generator[None]:
    """A context in which torch's CPU generator has this seed. Its state is restored on exit."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def batches_of(length: int, batch_size: int, *, world: int = 1) -> int:
    """The number of batches of up to `batch_size` samples that each of `world` processes gets in an epoch."""
    return math.ceil(length / (batch_size * world))


def can_share_out(length: int, batch_size: int, *, world: int = 1, fewest: int = 1) -> bool:
    """Whether every process gets at least `fewest` samples in each step, with `batch_size` samples per process."""
    return length >= batches_of(length, batch_size, world=world) * fewest * world


def check_batches(length: int, batch_size: int, *, world: int = 1, fewest: int = 1, why: str = "") -> None:
    """Checks `can_share_out` for the training images.

    Args:
        why: the reason for `fewest`, for the message.

    Raises:
        InputError: some process would get too few images in a step.
    """
    if can_share_out(length, batch_size, world=world, fewest=fewest):
        return
    sizes = range(batch_size + 1, length + 1)
    size = next((size for size in sizes if can_share_out(length, size, world=world, fewest=fewest)), None)
    each = f"{fewest} images or more" if fewest > 1 else "an image"
    on = f" on {world} processes" if world > 1 else ""
    raise InputError(
        f"data.batch_size: expected batches of which each holds {each}{why and f', as {why}'}, received"
        f" data.batch_size={batch_size} for {length} training images{on}; try "
        + (f"data.batch_size={size}" if size else "more images" + (", or fewer processes" if world > 1 else ""))
    )


class KeyedBatchSampler:
    """Yields an epoch's batches, as lists of keys, to one of `world` processes.

    Together, the processes get in each step what a single process with batches of `world * batch_size` would get. Every
    process gets the same number of batches, and every sample goes to exactly one process. The last step may be smaller.
    If it would leave a process with fewer than `fewest` samples, it takes samples from the steps before. If those have
    none to spare, there is one step less, and batches have up to one sample more.

    Args:
        length: number of samples, at least `fewest` per process.
        batch_size: samples per step and process.
        shuffle: whether each epoch has a new random order.
        labels: the class of each sample, for balanced sampling: an epoch draws `length` samples with every class
            equally often (to within one). Samples of rare classes are drawn several times, and those of frequent ones
            not all.
        fewest: the minimum number of samples in a batch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        labels: Sequence[int] | None = None,
        rank: int = 0,
        world: int = 1,
        fewest: int = 1,
    ) -> None:
        assert labels is None or len(labels) == length, "one label a sample"
        assert 0 <= rank < world, "rank counts from 0"
        assert length >= fewest * world, "check_batches must be called before"
        self.length, self.batch_size, self.seed, self.shuffle = length, batch_size, seed, shuffle
        self.labels = None if labels is None else np.asarray(labels)
        self.rank, self.world, self.fewest = rank, world, fewest
        self.epoch = 0
        self._resumed: tuple[int, int] = (0, 0)

    @property
    def sampler(self) -> KeyedBatchSampler:
        """Itself: Lightning calls `set_epoch` on `batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iteration."""
        self.epoch = epoch

    def start_at(self, epoch: int, batch: int) -> None:
        """Makes the iteration of that epoch, and of no other, start at that batch."""
        self.epoch = epoch
        self._resumed = (epoch, batch)

    @property
    def first_batch(self) -> int:
        """The number of batches of this epoch that were done before a resume."""
        epoch, batch = self._resumed
        return batch if epoch == self.epoch else 0

    def __len__(self) -> int:
        """The number of batches of a whole epoch, the same for every process."""
        batches = batches_of(self.length, self.batch_size, world=self.world)
        return min(batches, self.length // (self.fewest * self.world))

    def __iter__(self) -> Iterator[list[Key]]:
        for _, whole in self.steps():
            yield whole[self.rank :: self.world]

    def steps(self) -> Iterator[tuple[int, list[Key]]]:
        """The steps of the epoch, from `first_batch` on: their number, and the keys of all processes."""
        indices, draws = (values.tolist() for values in self.order(self.epoch))
        starts = self._starts()
        for step in range(self.first_batch, len(self)):
            places = slice(starts[step], starts[step + 1])
            yield step, list(map(Key, repeat(self.epoch), indices[places], draws[places]))

    def order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The samples of an epoch in order, over all processes: their indices [N] and draws [N] (see `Key`)."""
        generator = torch.Generator().manual_seed(derive("order", self.seed, epoch))
        if self.labels is not None:
            return _balanced(self.labels, generator)
        indices = torch.randperm(self.length, generator=generator).numpy() if self.shuffle else np.arange(self.length)
        return indices, np.zeros(self.length, dtype=np.int64)

    def _starts(self) -> list[int]:
        """The index in the order at which each step starts, followed by the total."""
        most, least, steps = self.batch_size * self.world, self.fewest * self.world, len(self)
        return [min(step * most, self.length - (steps - step) * least) for step in range(steps)] + [self.length]


def _balanced(labels: np.ndarray, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws `len(labels)` samples with each class equally often, without replacement until a class is exhausted."""
    classes = torch.from_numpy(np.unique(labels))
    classes = classes[torch.randperm(len(classes), generator=generator)]  # rotates who gets the remaining draws
    indices: list[np.ndarray] = []
    draws: list[np.ndarray] = []
    for place, label in enumerate(classes.tolist()):
        members = np.flatnonzero(labels == label)
        quota = len(labels) // len(classes) + (place < len(labels) % len(classes))
        for draw in range(-(-quota // len(members))):
            order = torch.randperm(len(members), generator=generator)[: quota - draw * len(members)]
            indices.append(members[order.numpy()])
            draws.append(np.full(len(order), draw))
    mixed = torch.randperm(len(labels), generator=generator).numpy()
    return np.concatenate(indices)[mixed], np.concatenate(draws)[mixed]
