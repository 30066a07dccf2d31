"""The data of a run as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lightning
import torch
from torch.utils.data import Dataset

from graft.config.choices import CacheKind, Resize
from graft.config.rules_cache import is_mixed, is_random
from graft.config.schema_images import AugmentConfig, CacheConfig, DataConfig
from graft.data.images import Decoding, ImageFiles, ImageSource, store_images
from graft.data.loader import KeyedImages, KeyedLoader, Stored, as_batched, choose_workers
from graft.data.mixing import MixedImages, PairedBatchSampler
from graft.data.sampling import KeyedBatchSampler, can_share_out
from graft.data.table import PARTS, Sample, Table
from graft.data.transforms import eval_transform, interpolation, jpeg_edge, resized_edge, train_transform
from graft.features.cache_folder import CacheFolder

if TYPE_CHECKING:
    from graft.models.preprocess import Preprocess


class DataModule(lightning.LightningDataModule):
    """Loaders over a table's parts, in batches {"image": float [B, C, S, S], "target": int64 [B] or float [B, K],
    "label": int64 [B] or float [B, K], "index": int64 [B]}.

    The samples of a batch and their augmentation depend only on (seed, epoch, sample) (law 5). The Trainer needs
    `use_distributed_sampler=False`, because the samplers here already divide the samples among the processes.

    Args:
        preprocess: the network's preprocessing, with mean and std for `data.channels` channels.
        seed: the run's seed.
        cache: decoded images are stored if its kind is `images`; other kinds are ignored.
        fewest: the minimum number of images in a training batch (`KeyedBatchSampler`).
        say: receives a message for the user who waits.
    """

    def __init__(
        self,
        table: Table,
        data: DataConfig,
        augment: AugmentConfig,
        preprocess: Preprocess,
        *,
        seed: int,
        cache: CacheConfig | None = None,
        fewest: int = 1,
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__()
        assert len(preprocess.mean) == data.channels, "mean and std follow the channels"
        self.table, self.data, self.augment, self.preprocess, self.seed = table, data, augment, preprocess, seed
        self.cache, self.fewest, self.say = cache, fewest, say
        self.batch_size = data.images
        """Images per batch and process. A change applies to loaders that are created later."""
        self._sources: dict[tuple[str, bool], ImageSource] = {}
        self._stored: Mapping[str, Mapping[str, Dataset[Any]]] = {}
        self._collate_stored: Callable[[Any], Any] = as_batched
        self.serve(None)

    def prepare_data(self) -> None:
        """Fills the image cache, in one process, before the others open it."""
        for cropped in (False, True):
            if parts := self._stored_parts(cropped):
                self._open_store(parts, self._decoding(cropped))

    def images(self, part: str, *, augmented: bool = False) -> KeyedImages:
        """A part's images under keys (epoch, sample), with the transform of training or of evaluation."""
        cropped = augmented and self.augment.crop_scale is not None
        if (part, cropped) not in self._sources:
            self._open_sources(cropped)
        samples = self.table.part(part)
        if augmented:
            transform, random = train_transform(self.augment, self.preprocess), is_random(self.augment)
        else:
            transform, random = eval_transform(self.preprocess), False
        return KeyedImages(self._sources[part, cropped], samples, transform, seed=self.seed, random=random)

    def use_stored(self, datasets: Mapping[str, Mapping[str, Dataset[Any]]], collate_fn: Callable[[Any], Any]) -> None:
        """Takes batches from stored features instead of images, from the next loader on, without workers.

        Args:
            datasets: stage to part to the features after that stage. The first stage is used until `serve` selects
                another.
            collate_fn: makes a batch of what a dataset returns for a list of keys.
        """
        self._stored, self._collate_stored = datasets, collate_fn

    def serve(self, cut_of: Callable[[int], str | None] | None) -> None:
        """Selects the stored features from which an epoch's batches are taken.

        Args:
            cut_of: maps an epoch to a stage with stored features, or to None for images. None: the first stored stage
                in every epoch. Validation in epoch e uses e, and evaluation after training uses the number of epochs.
        """
        self._serve = cut_of or (lambda epoch: next(iter(self._stored), None))

    def _stored_of(self, part: str, epoch: int) -> Stored | None:
        cut = self._serve(epoch)
        if cut is None:
            return None
        return self._stored[cut][part], lambda items: {**self._collate_stored(items), "cut": cut}

    def can_train_by(self, batch_size: int) -> bool:
        """Whether batches of that size leave each process at least `fewest` images in every step."""
        world = self.trainer.world_size if self.trainer else 1
        return can_share_out(len(self.table.train), batch_size, world=world, fewest=self.fewest)

    def loader(self, part: str, *, train: bool = False) -> KeyedLoader:
        """A part's loader. Training shuffles and augments; evaluation takes every image once, in order."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        samples = self.table.part(part)
        mixed = train and is_mixed(self.augment)
        sampler = (PairedBatchSampler if mixed else KeyedBatchSampler)(
            len(samples),
            self.batch_size,
            seed=self.seed,
            shuffle=train,
            labels=self._classes(part) if train and self.data.balanced else None,
            rank=rank,
            world=world,
            fewest=self.fewest if train else 1,
        )
        assert not (mixed and self._stored), "the plan stores no features if images are mixed"
        images = self.images(part, augmented=train)
        return KeyedLoader(
            MixedImages(images, self.augment, classes=len(self.table.classes), seed=self.seed) if mixed else images,
            sampler,
            num_workers=self.workers(len(samples)),
            pin_memory=self._on_gpu(),
            stored=lambda epoch: self._stored_of(part, epoch),
            whole=not train,
        )

    def _classes(self, part: str) -> list[int]:
        """The class of each image, for single-label tasks."""
        return [label for label in self.table.labels_of(part) if isinstance(label, int)]

    def train_dataloader(self) -> KeyedLoader:
        return self.loader("train", train=True)

    def val_dataloader(self) -> KeyedLoader:
        return self.loader("val")

    def test_dataloader(self) -> KeyedLoader | None:
        """The loader of the test part; None if there is none."""
        return self.loader("test") if self.table.test else None

    def _on_gpu(self) -> bool:
        if self.trainer is None:
            return False
        device: torch.device = self.trainer.strategy.root_device
        return device.type == "cuda"

    def workers(self, images: int) -> int:
        """The number of loader processes for this number of images: as configured, or chosen for the machine."""
        if self.data.num_workers is not None:
            return self.data.num_workers
        processes = self.trainer.num_devices if self.trainer else 1
        return choose_workers(images, accelerator=self._on_gpu(), processes=processes)

    def _open_sources(self, cropped: bool) -> None:
        parts, decoding = self._stored_parts(cropped), self._decoding(cropped)
        stored = self._open_store(parts, decoding) if parts else None
        for part in PARTS:
            samples = self.table.part(part)
            files = ImageFiles([sample.path for sample in samples], decoding.channels, decoding.jpeg_edge)
            self._sources[part, cropped] = stored(samples) if stored and part in parts else files

    def _decoding(self, cropped: bool) -> Decoding:
        """How images are stored: resized where that comes first in every epoch; as decoded where the transform takes
        a random part (`cropped`), or where the image is not cropped at all."""
        scale = self.augment.crop_scale if cropped else None
        return Decoding(
            channels=self.data.channels,
            jpeg_edge=jpeg_edge(self.preprocess, scale),
            edge=None if cropped or self.preprocess.resize != Resize.crop.value else resized_edge(self.preprocess),
            mode=interpolation(self.preprocess),
        )

    def _stored_parts(self, cropped: bool) -> Sequence[str]:
        """The parts that cache=images stores in this form."""
        if self.cache is None or self.cache.kind is not CacheKind.images:
            return ()
        if self.augment.crop_scale is None:
            return () if cropped else PARTS
        return [part for part in PARTS if (part == "train") == cropped]

    def _open_store(self, parts: Sequence[str], decoding: Decoding) -> Callable[[Sequence[Sample]], ImageSource]:
        assert self.cache is not None, "only with cache=images"
        folder = CacheFolder(self.cache.dir, max_gb=self.cache.max_gb, say=self.say)
        return store_images([sample for part in parts for sample in self.table.part(part)], folder, decoding)
