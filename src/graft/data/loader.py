"""Datasets that are indexed by keys, and a loader that can be resumed at any batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from graft.config.faults import RunFailed
from graft.data.images import ImageSource
from graft.data.pixels import Unreadable
from graft.data.sampling import Key, KeyedBatchSampler, keyed_randomness
from graft.data.table import Sample
from graft.data.transforms import Transform
from graft.system.machine import threads
from graft.system.processes import cores
from graft.system.stopping import outlive_signals
from graft.tasks.labels import Label

Batch = dict[str, torch.Tensor]
Stored = tuple[Dataset[Any], Callable[[Any], Any]]
"""Stored features, and the collate function for them."""
READ_BYTES = 4 << 20
"""Batches of stored features are read in blocks of about this size."""
_FEW = 128  # this many images are decoded in the time that a worker takes to start


class KeyedImages(Dataset[dict[str, Any]]):
    """A part's images, transformed. Random augmentation depends only on (seed, key).

    An item is {"image": float [C, S, S], "target": class or float [K], "label": class or float [K], "index": index in
    the part}. The loss is computed against the target, and figures against the label. A list of keys gives one batch,
    which is filled in place.

    Args:
        source: the images, in the order of the samples.
        random: whether the transform draws random numbers.
    """

    def __init__(
        self,
        source: ImageSource,
        samples: Sequence[Sample],
        transform: Transform,
        *,
        seed: int = 0,
        random: bool = False,
    ) -> None:
        assert len(source) == len(samples), "an image a sample"
        self.source, self.transform, self.seed, self.random = source, transform, seed, random
        self.identities = [sample.content for sample in samples]
        labels = label_tensor([sample.label for sample in samples])
        soft = [sample.target for sample in samples if sample.target is not None]
        assert len(soft) in (0, len(samples)), "every sample has a soft target, or none has"
        self.columns = {
            "target": torch.tensor(soft, dtype=torch.float32) if soft else labels,  # [N, K] or [N]
            "label": labels,
            "index": torch.arange(len(samples)),
        }

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, ...]) -> dict[str, Any]:
        """The sample with a key (epoch, sample) or (epoch, sample, draw).

        Raises:
            RunFailed: the file can no longer be decoded.
        """
        try:
            batch = self._batch([Key(*key)])
        except Unreadable as unreadable:
            raise _failed(unreadable) from None
        return {name: values[0] for name, values in batch.items()}

    def __getitems__(self, keys: Sequence[Key]) -> Batch | Unreadable:
        """The batch of these keys.

        Unreadable is returned instead of raised: raised in a worker, it would be buried in the worker's traceback.
        """
        # Single images are too little work for several threads: two threads take five times the processor time.
        with threads(1):
            try:
                return self._batch(keys)
            except Unreadable as unreadable:
                return unreadable

    def _batch(self, keys: Sequence[Key]) -> Batch:
        images_BCSS = torch.empty(len(keys), *self.transform.shape)
        for key, image_CSS in zip(keys, images_BCSS, strict=True):
            pixels_CHW = self.source[key.sample]
            if self.random:
                with keyed_randomness(self.seed, key):
                    self.transform(pixels_CHW, image_CSS)
            else:
                self.transform(pixels_CHW, image_CSS)
        samples = torch.tensor([key.sample for key in keys])
        return {"image": images_BCSS, **{name: column[samples] for name, column in self.columns.items()}}


def label_tensor(labels: Sequence[Label]) -> torch.Tensor:
    """Labels as a tensor: classes as int64 [N], labels or numbers as float32 [N, K]."""
    tensor = torch.tensor(labels)
    return tensor.to(torch.float32 if tensor.ndim == 2 else torch.int64)


def as_batched(batch: Any) -> Any:
    """The collate function for datasets that return whole batches."""
    return batch


class KeyedLoader:
    """Yields an epoch's batches. Its state is (epoch, number of batches yielded), so a resumed run continues there.

    It wraps a DataLoader instead of being one, so that Lightning does not replace its sampler.

    Args:
        collate_fn: makes a batch of what the dataset returns for a list of keys.
        stored: maps an epoch to the stored features that replace `dataset` in it, or to None. They are read in this
            process.
        whole: whether each block of stored features is one batch, for evaluation. There may then be fewer batches than
            `len` returns.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_sampler: KeyedBatchSampler,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        collate_fn: Callable[[Any], Any] = as_batched,
        stored: Callable[[int], Stored | None] = lambda epoch: None,
        whole: bool = False,
    ) -> None:
        self.dataset, self.batch_sampler = dataset, batch_sampler
        self.batch_size = batch_sampler.batch_size
        self._handed_out = 0
        self._stored, self._pin, self._whole = stored, pin_memory, whole
        self._loader = self._over(dataset, collate_fn, num_workers)

    def _over(self, dataset: Dataset[Any], collate_fn: Callable[[Any], Any], num_workers: int = 0) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_sampler=self.batch_sampler,  # pyright: ignore[reportArgumentType] - its keys are tuples, torch's type says int
            num_workers=num_workers,
            pin_memory=self._pin,
            collate_fn=collate_fn,
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # of its own: the training's random numbers are not drawn on
            worker_init_fn=outlive_signals,
        )

    @property
    def num_workers(self) -> int:
        return self._loader.num_workers

    @property
    def sampler(self) -> KeyedBatchSampler:
        """The batch sampler, under the name by which Lightning calls its `set_epoch`."""
        return self.batch_sampler

    def __len__(self) -> int:
        """The number of batches of a whole epoch, even if this one is resumed midway."""
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Any]:
        """The batches from the first one on that is due. Raises RunFailed if an image cannot be decoded."""
        self._handed_out = self.batch_sampler.first_batch
        stored = self._stored(self.batch_sampler.epoch)
        for batch in self._loader if stored is None else self._read(*stored):
            if isinstance(batch, Unreadable):
                raise _failed(batch)
            self._handed_out += 1
            yield batch

    def _read(self, dataset: Dataset[Any], collate_fn: Callable[[Any], Any]) -> Iterator[Any]:
        """The batches that a DataLoader without workers would yield. Small batches are read in blocks, to save time."""
        several = getattr(dataset, "__getitems__", lambda keys: [dataset[key] for key in keys])
        batches, at_once = iter(self.batch_sampler), 1
        while block := list(islice(batches, at_once)):
            read = collate_fn(several([key for keys in block for key in keys]))
            rows = {name: values for name, values in read.items() if isinstance(values, torch.Tensor)}
            if self._pin:
                rows = {name: values.pin_memory() for name, values in rows.items()}
            lengths = [sum(map(len, block))] if self._whole else [len(keys) for keys in block]
            yield from _parts(read, rows, lengths)
            at_once = max(1, READ_BYTES * len(block) // sum(values.nbytes for values in rows.values()))

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.batch_sampler.epoch, "batch": self._handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batch_sampler.start_at(state["epoch"], state["batch"])
        self._handed_out = state["batch"]


def _parts(batch: Mapping[str, Any], rows: Batch, lengths: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Splits the rows into batches of these lengths, as views. Values without rows are part of each batch."""
    for values in zip(*(each.split(lengths) for each in rows.values()), strict=True):
        yield {**batch, **dict(zip(rows, values, strict=True))}


def _failed(unreadable: Unreadable) -> RunFailed:
    return RunFailed(
        f"{unreadable}: expected an image that can be decoded; it passed the check at the start, so it changed since, "
        f"or is damaged in its middle; try removing it, or data.on_error=skip, which decodes every image first"
    )


def choose_workers(images: int, *, accelerator: bool, processes: int = 1) -> int:
    """The number of loader processes for each of the processes that train on this machine.

    One core decodes and augments about 250 small images per second. With an accelerator, all cores load images, up to
    8 of them. On the CPU, one core in four does, because the cores are needed for training, which takes far longer than
    loading. With fewer than four cores, none does.

    Args:
        images: number of images in the part. Few images need no loader process.
        accelerator: whether training runs on one.
        processes: number of processes that train on this machine.
    """
    each = cores() // processes
    if images < _FEW:
        return 0
    return min(each, 8) if accelerator else min(each // 4, 4)
