"""Stored features as a dataset. A batch is a single gather, so an epoch costs little more than its arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from graft.features.store import StoredRows


def pack(features: torch.Tensor) -> torch.Tensor:
    """Features in the layout of stored rows: [B, C, H, W] as [B, H, W, C], so that a gathered batch is
    channels-last."""
    return features.permute(0, 2, 3, 1) if features.ndim == 4 else features


def unpack(rows: torch.Tensor) -> torch.Tensor:
    """The inverse of `pack`, as a view."""
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows


class FeatureRows:
    """Features [N, D], read block by block: they may be mapped from a file that does not fit into memory.

    Args:
        stored: features as in the store, [rows, …].
        rows_N: the row of the store for each image.
        dtype: type of the returned features, whatever the stored type.
        columns: indices of the features to use; None: all D.
    """

    def __init__(
        self, stored: torch.Tensor, rows_N: torch.Tensor, dtype: torch.dtype, columns: torch.Tensor | None = None
    ) -> None:
        self.stored, self.rows_N, self.dtype, self.columns = stored, rows_N, dtype, columns

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows_N), self.width if self.columns is None else len(self.columns)

    @property
    def width(self) -> int:
        """Number of stored values per image."""
        return self.stored[:1].numel()

    def __len__(self) -> int:
        return len(self.rows_N)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        """[n, D]."""
        features = unpack(self.stored.index_select(0, self.rows_N[rows])).flatten(1).to(self.dtype)
        return features if self.columns is None else features[:, self.columns]

    def only(self, columns: torch.Tensor) -> FeatureRows:
        """The same rows with only these columns."""
        return FeatureRows(self.stored, self.rows_N, self.dtype, columns)


class FeatureDataset(Dataset[dict[str, torch.Tensor]]):
    """For keys (epoch, index[, draw]), returns the features of the images with their columns (target, label, index).

    Give a loader `collate_fn=as_batched` and `num_workers=0`: there is nothing to decode, and a batch is one gather.
    With several views, epoch e uses view e modulo their number, so the first epochs see the same images as without a
    store. A sample's second draw within an epoch uses the next view.

    Args:
        rows: the row of the store for each image, [n], or for each view of it, [views, n].
        columns: tensors with one row per image.
        channels_last: memory format of [B, C, H, W] features, which is the network's (`trainer.channels_last`): a
            dropout at the cut draws its mask in that order. They are stored channels-last, so False costs a copy.
        dtype: type of the returned features, whatever the stored type.
    """

    def __init__(
        self,
        entry: StoredRows,
        *,
        rows: torch.Tensor,
        columns: Mapping[str, torch.Tensor],
        channels_last: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.entry = entry
        self.rows = rows if rows.ndim == 2 else rows[None]
        self.columns = dict(columns)
        self.channels_last = channels_last
        self.dtype = dtype
        lengths = {name: len(column) for name, column in self.columns.items()}
        assert set(lengths.values()) <= {len(self)}, f"{len(self)} images, columns of {lengths}"

    @property
    def views(self) -> int:
        return self.rows.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image's features."""
        return tuple(unpack(self.entry.tensor[:1]).shape[1:])

    def __len__(self) -> int:
        return self.rows.shape[1]

    def whole(self) -> FeatureRows:
        """All views of all images as vectors, one view after the other."""
        return FeatureRows(self.entry.tensor, self.rows.reshape(-1), self.dtype)

    def __getitem__(self, key: tuple[int, ...]) -> dict[str, Any]:
        return {name: column[0] for name, column in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence[tuple[int, ...]]) -> dict[str, torch.Tensor]:
        """The whole batch: features [B, …] and each column [B, …]."""
        indices = torch.tensor([key[1] for key in keys], dtype=torch.int64)
        if self.views == 1:
            rows = self.rows[0].index_select(0, indices)
        else:
            turns = torch.tensor([key[0] + sum(key[2:]) for key in keys], dtype=torch.int64)
            rows = self.rows[turns % self.views, indices]
        features = unpack(self.entry.tensor.index_select(0, rows)).to(self.dtype)
        features = features if self.channels_last else features.contiguous()
        return {
            "features": features,
            **{name: column.index_select(0, indices) for name, column in self.columns.items()},
        }
