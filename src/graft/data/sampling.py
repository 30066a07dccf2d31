"""Which samples make which batch, and the random numbers of each: functions of (seed, epoch, sample), of nothing else.

A batch is a list of keys. A key says all that a worker needs, so it does not matter which process works on it, or when.
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
    """One appearance of one sample."""

    epoch: int
    sample: int
    """Position in the part's samples."""
    draw: int = 0
    """0 for the sample's first appearance in the epoch, 1 for its second (balanced sampling repeats the rare)."""


def derive(*values: int | str) -> int:
    """A 63-bit seed from plain values: the same on every machine, unrelated for any two different inputs."""
    return int.from_bytes(hashlib.blake2b(repr(values).encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def keyed_randomness(seed: int, key: Key) -> Generator[None]:
    """Within it, torch's CPU generator gives this seed's and key's numbers; after it, it goes on as before."""
    with drawn_from(derive(seed, *key)):
        yield


@contextmanager
def drawn_from(seed: int) -> Generator[None]:
    """Within it, torch's CPU generator gives this seed's numbers; after it, it goes on as before."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def batches_of(length: int, batch_size: int, *, world: int = 1) -> int:
    """How many batches of up to `batch_size` samples each of `world` processes gets of an epoch."""
    return math.ceil(length / (batch_size * world))


def can_share_out(length: int, batch_size: int, *, world: int = 1, fewest: int = 1) -> bool:
    """Whether steps of `batch_size` samples a process leave no process with fewer than `fewest` of any."""
    return length >= batches_of(length, batch_size, world=world) * fewest * world


def check_batches(length: int, batch_size: int, *, world: int = 1, fewest: int = 1, why: str = "") -> None:
    """Raises InputError unless the training images can be shared out.

    Args:
        why: `fewest` is more than one.
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

    The processes' shares of a step together are what a single process of `world * batch_size` would get in that step.
    Every process gets the same number of batches and every sample goes to exactly one of them. The last step may be
    smaller; it takes from the steps before where a process would get fewer samples of it than `fewest`. (Where those
    have none to spare, there is a step less, and batches of up to one sample more.)

    Args:
        length: number of samples, `fewest` for each process or more.
        batch_size: samples a step and process.
        fewest: samples that a batch must hold.
        shuffle: a new order every epoch; else the samples' own.
        labels: given, an epoch draws `length` samples with every class equally often (to one): a rare class's samples
            several times, a frequent one's in part, in turn.
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
        assert length >= fewest * world, "the plan answers where there is too little to share out"
        self.length, self.batch_size, self.seed, self.shuffle = length, batch_size, seed, shuffle
        self.labels = None if labels is None else np.asarray(labels)
        self.rank, self.world, self.fewest = rank, world, fewest
        self.epoch = 0
        self._resumed: tuple[int, int] = (0, 0)

    @property
    def sampler(self) -> KeyedBatchSampler:
        """Lightning announces the epoch to `batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration yields."""
        self.epoch = epoch

    def start_at(self, epoch: int, batch: int) -> None:
        """Iterating that epoch, and no other, begins at that batch."""
        self.epoch = epoch
        self._resumed = (epoch, batch)

    @property
    def first_batch(self) -> int:
        """Batches of this epoch that a resumed run has behind it."""
        epoch, batch = self._resumed
        return batch if epoch == self.epoch else 0

    def __len__(self) -> int:
        """Batches of a whole epoch, the same for every process."""
        batches = batches_of(self.length, self.batch_size, world=self.world)
        return min(batches, self.length // (self.fewest * self.world))

    def __iter__(self) -> Iterator[list[Key]]:
        for _, whole in self.steps():
            yield whole[self.rank :: self.world]

    def steps(self) -> Iterator[tuple[int, list[Key]]]:
        """The epoch's steps from the first batch on: the keys of all processes together."""
        indices, draws = (values.tolist() for values in self.order(self.epoch))
        starts = self._starts()
        for step in range(self.first_batch, len(self)):
            places = slice(starts[step], starts[step + 1])
            yield step, list(map(Key, repeat(self.epoch), indices[places], draws[places]))

    def order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """An epoch's samples in order, for all processes together: indices, and which draw of its sample each is."""
        generator = torch.Generator().manual_seed(derive("order", self.seed, epoch))
        if self.labels is not None:
            return _balanced(self.labels, generator)
        indices = torch.randperm(self.length, generator=generator).numpy() if self.shuffle else np.arange(self.length)
        return indices, np.zeros(self.length, dtype=np.int64)

    def _starts(self) -> list[int]:
        """Where each step begins in the order, and the end."""
        most, least, steps = self.batch_size * self.world, self.fewest * self.world, len(self)
        return [min(step * most, self.length - (steps - step) * least) for step in range(steps)] + [self.length]


def _balanced(labels: np.ndarray, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`len(labels)` draws with each class equally often: without replacement until a class is used up, then again."""
    classes = torch.from_numpy(np.unique(labels))
    classes = classes[torch.randperm(len(classes), generator=generator)]  # who gets the odd draws changes every epoch
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
