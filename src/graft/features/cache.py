"""Computes the output of the frozen prefix once per image and caches it, so that training starts at the cut.

A row of the store is the prefix's output for one image, or for one augmented view of it. The key of an entry is a hash
of everything that a row depends on, so a lookup never returns rows that were computed from something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from graft.config.faults import InputError, RunFailed
from graft.features.cache_folder import CacheFolder
from graft.features.dataset import FeatureDataset, pack
from graft.features.header import DTYPES
from graft.features.ingredients import Ingredients
from graft.features.store import StoredRows, Writer, entry_bytes
from graft.system.machine import threads
from graft.system.stopping import outlive_signals

Progress = Callable[[int, int], None]
"""Receives the number of finished rows, and their total number."""


class PartImages(Protocol):
    """The images of one part, as returned by `datamodule.DataModule.images`."""

    @property
    def identities(self) -> Sequence[str]:
        """One ASCII string per image that identifies its file. Images with equal strings share a row."""
        ...

    @property
    def columns(self) -> Mapping[str, torch.Tensor]:
        """target, label, index: one row per image."""
        ...

    @property
    def random(self) -> bool:
        """Whether an image looks different in another epoch."""
        ...

    def __getitem__(self, key: tuple[int, ...]) -> dict[str, Any]:
        """For a key (epoch, index), a dict whose "image" is float [C, H, W]."""
        ...


class FeatureCache:
    """Features by part, read from the store or computed and stored.

    Args:
        batch_size: images per forward pass while computing; it affects the rows only by rounding.
        num_workers: number of loader processes while computing.
        threads: number of threads while computing; None: as many as elsewhere.
        progress: receives the number of rows computed so far.
    """

    def __init__(
        self,
        folder: CacheFolder,
        *,
        batch_size: int = 32,
        num_workers: int = 0,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.folder = folder
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.threads = threads
        self.progress = progress

    def build(
        self,
        prefix: nn.Module,
        parts: Mapping[str, PartImages],
        ingredients: Ingredients,
        *,
        device: torch.device | str = "cpu",
        channels_last: bool = True,
    ) -> dict[str, FeatureDataset]:
        """The features of every part's images, as datasets that take the same keys as the parts' images do.

        Args:
            prefix: maps images [B, C, H, W] to features [B, …], such as an `Engine`. It is called in its
                current mode, and only if the store does not have the rows.
            channels_last: the memory format in which the network takes its features (`trainer.channels_last`).

        Raises:
            InputError: images are random but have no views, or the entry exceeds `cache.max_gb`; nothing is written.
            RunFailed: the prefix gives two different outputs for one input, or NaN; or an image can no longer be read.
        """
        layout = _lay_out(parts, ingredients.views)
        key = ingredients.key(layout.digest)
        entry = self.folder.open(key, _holding(layout, ingredients.dtype))
        if entry is None:
            what = f"{len(layout.sources)} features after {ingredients.cut} of {ingredients.network.get('name')}"
            record = {"kind": "features", "what": what, "images": layout.digest, **ingredients.record()}
            computed = _Rows(prefix, _Pictures(parts, layout), torch.device(device), DTYPES[ingredients.dtype])
            entry = self._compute(key, computed, ingredients.dtype, record)
        return _datasets(entry, layout, parts, channels_last)

    def find(
        self, parts: Mapping[str, PartImages], ingredients: Ingredients, *, channels_last: bool = True
    ) -> dict[str, FeatureDataset] | None:
        """The result of `build` if the store has it; no prefix is needed.

        Raises:
            InputError: the images are random but have no views.
        """
        layout = _lay_out(parts, ingredients.views)
        entry = self.folder.open(ingredients.key(layout.digest), _holding(layout, ingredients.dtype))
        return None if entry is None else _datasets(entry, layout, parts, channels_last)

    def _compute(self, key: str, rows: _Rows, dtype: str, record: Mapping[str, Any]) -> StoredRows:
        def fill(writer: Writer) -> None:
            done = 0
            loader = DataLoader(
                rows.pictures,
                batch_size=self.batch_size,
                num_workers=self.num_workers,
                collate_fn=_stack,
                generator=torch.Generator(),  # of its own: the training's random numbers are not drawn on
                worker_init_fn=outlive_signals,
            )
            with threads(self.threads):
                for images in loader:
                    if isinstance(images, RunFailed):
                        raise images
                    writer.append(rows.compute(images, done))
                    done += len(images)
                    if self.progress:
                        self.progress(done, len(rows.pictures))

        return self.folder.open_or_write(key, shape=rows.shape(), dtype=dtype, record=record, fill=fill)


def _datasets(
    entry: StoredRows, layout: _Layout, parts: Mapping[str, PartImages], channels_last: bool
) -> dict[str, FeatureDataset]:
    return {
        name: FeatureDataset(entry, rows=layout.rows[name], columns=part.columns, channels_last=channels_last)
        for name, part in parts.items()
    }


def estimate(shape: tuple[int, ...], *, rows: int, dtype: str) -> int:
    """Size on disk, in bytes, of the features.

    Args:
        shape: shape of one image's features.
        rows: number of images, with each training image counted once per view.
    """
    return entry_bytes((rows, *shape), dtype, {})


def feature_shape(prefix: nn.Module, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one image's stored features. A prefix on the meta device computes nothing.

    Args:
        image_shape: [C, H, W].
    """
    placed = next((tensor.device for tensor in prefix.state_dict().values()), torch.device("cpu"))
    with torch.no_grad():
        features = pack(prefix(torch.zeros(1, *image_shape, device=placed)))
    return tuple(features.shape[1:])


def row_count(*, train: int, others: int, views: int) -> int:
    """Number of rows of an entry: one per view for training images, and one for each of the others."""
    return train * max(views, 1) + others


def check_cut(cut: str | None) -> str:
    """The result of `features.engine.frozen_prefix`, after checking that there is a stage to cut at.

    Raises:
        InputError: there is nothing to cache.
    """
    if cut is None:
        raise InputError(
            "cache=features: expected leading stages that no phase trains, received a first stage that trains; "
            "try freeze=backbone, freeze=layer1-3 or the like, or cache=none"
        )
    return cut


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The contents of each row."""

    rows: dict[str, torch.Tensor]  # part → row of each image, [n], or of each view, [views, n]
    names: tuple[str, ...]  # the parts
    sources: torch.Tensor  # int32 [rows, 3]: number of the part, epoch, index in the part
    digest: str


class _Pictures(Dataset[torch.Tensor]):
    """The image of each row."""

    def __init__(self, parts: Mapping[str, PartImages], layout: _Layout) -> None:
        self.parts, self.layout = parts, layout

    def __len__(self) -> int:
        return len(self.layout.sources)

    def __getitem__(self, row: int) -> torch.Tensor:
        part, epoch, index = self.source(row)
        return part[(epoch, index)]["image"]

    def __getitems__(self, rows: Sequence[int]) -> list[torch.Tensor] | RunFailed:
        """Returns a failure instead of raising it: raised in a worker, it would be buried in the worker's traceback."""
        try:
            return [self[row] for row in rows]
        except RunFailed as failure:
            return failure

    def source(self, row: int) -> tuple[PartImages, int, int]:
        """The part, the epoch and the index in the part."""
        number, epoch, index = self.layout.sources[row].tolist()
        return self.parts[self.layout.names[number]], epoch, index


def _stack(images: list[torch.Tensor] | RunFailed) -> torch.Tensor | RunFailed:
    return images if isinstance(images, RunFailed) else torch.stack(images)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The source of an entry's rows."""

    prefix: nn.Module
    pictures: _Pictures
    device: torch.device
    dtype: torch.dtype

    def shape(self) -> tuple[int, ...]:
        """Shape of all rows together. The first image shows the shape of one row, and that the prefix is
        deterministic."""
        probe = self.pictures[0][None].to(self.device)  # [1, C, H, W]
        with torch.inference_mode():
            first, again = self.prefix(probe), self.prefix(probe)
        if not torch.allclose(first, again, equal_nan=True):
            raise RunFailed("the frozen prefix gives two answers for one image (dropout that is on?); try cache=none")
        return (len(self.pictures), *pack(first).shape[1:])

    def compute(self, images: torch.Tensor, start: int) -> torch.Tensor:
        """The rows of these images, of which the first is row `start`."""
        with torch.inference_mode():
            rows = pack(self.prefix(images.to(self.device, non_blocking=True)).to(self.dtype))
        finite = rows.reshape(len(rows), -1).isfinite().all(dim=1)
        if not bool(finite.all()):
            bad = start + int((~finite).nonzero()[0, 0])
            remedy = (
                "cache.dtype=bfloat16 or float32" if self.dtype is torch.float16 else "another donor, or cache=none"
            )
            number, _, index = self.pictures.layout.sources[bad].tolist()
            raise RunFailed(
                f"the frozen prefix gives NaN or infinity, as {self.dtype}, for image {index} of "
                f"{self.pictures.layout.names[number]}; try {remedy}"
            )
        return rows


def _holding(layout: _Layout, dtype: str) -> Callable[[StoredRows], bool]:
    """Whether an entry has a row for each of these images."""
    return lambda entry: entry.header.dtype == dtype and entry.header.shape[0] == len(layout.sources)


def _lay_out(parts: Mapping[str, PartImages], views: int) -> _Layout:
    """One row per distinct image, sorted by identity, followed by the rows of a random part by view and index.

    The order does not depend on the parts, so runs that split the same images differently share the entry. A view also
    depends on its image's index, so views are identified by the complete list of their part.
    """
    names = tuple(parts)
    random = [name for name in names if parts[name].random]
    if random and not views:
        raise InputError(
            f"cache=features: expected images that look the same in every epoch, received random augmentation of "
            f"{', '.join(random)} before the cut; try augment=none, cache.views=8, or cache=none"
        )
    plain = [name for name in names if name not in random]
    counts = [len(parts[name].identities) for name in plain]
    every = np.array([identity for name in plain for identity in parts[name].identities], dtype=np.bytes_)
    ordered, first, row_of = np.unique(every, return_index=True, return_inverse=True)
    rows = dict(zip(plain, torch.from_numpy(row_of).split(counts), strict=True))
    numbers = np.repeat([names.index(name) for name in plain], counts)
    indices = np.concatenate([np.arange(count) for count in counts]) if counts else np.arange(0)
    keys = np.stack([numbers, np.zeros_like(indices), indices], axis=1)[first]
    sources = [torch.from_numpy(keys.astype(np.int32))]
    digest = hashlib.sha256(f"{ordered.dtype} ".encode() + ordered.tobytes())
    total = len(ordered)
    for name in random:
        count = len(parts[name].identities)
        rows[name] = torch.arange(total, total + views * count).view(views, count)
        number = torch.tensor([names.index(name)])
        sources.append(torch.cartesian_prod(number, torch.arange(views), torch.arange(count)).int())
        digest.update("\n".join(["\nviews of", *parts[name].identities]).encode())
        total += views * count
    return _Layout(rows=rows, names=names, sources=torch.cat(sources), digest=digest.hexdigest())
