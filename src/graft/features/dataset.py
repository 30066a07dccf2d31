"""Stored features as a dataset: a whole batch is one gather, so that an epoch costs what its arithmetic costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from graft.features.store import StoredRows


def pack(features: torch.Tensor) -> torch.Tensor:
    """Features as rows are stored: [B, C, H, W] as [B, H, W, C], so that a gathered batch is channels-last as it is."""
    return features.permute(0, 2, 3, 1) if features.ndim == 4 else features


def unpack(rows: torch.Tensor) -> torch.Tensor:
    """What `pack` packed; a view."""
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows


class FeatureRows:
    """Features [N, D], read a block at a time: they may be mapped from a file that memory would not hold.

    Args:
        stored: as the store has them, [rows, …].
        rows_N: the store's row of each.
        dtype: features are given in this type, whatever they are stored in.
        columns: of the D features, those that count; None: all.
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
        """Of what is stored of one image."""
        return self.stored[:1].numel()

    def __len__(self) -> int:
        return len(self.rows_N)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        """[n, D]."""
        features = unpack(self.stored.index_select(0, self.rows_N[rows])).flatten(1).to(self.dtype)
        return features if self.columns is None else features[:, self.columns]

    def only(self, columns: torch.Tensor) -> FeatureRows:
        """With these of the features alone."""
        return FeatureRows(self.stored, self.rows_N, self.dtype, columns)


class FeatureDataset(Dataset[dict[str, torch.Tensor]]):
    """Takes keys (epoch, index[, draw]); gives the image's features with its columns (target, label, index).

    Give a loader `collate_fn=as_batched` and `num_workers=0`: there is nothing to decode, and a batch is one gather.
    Of several views, epoch e has view e modulo their number, so that as many epochs as there are views see what they
    would see without a store; a sample's second draw within an epoch has the next view.

    Args:
        rows: the store's row of each image, [n], or of each view of it, [views, n].
        columns: a row an image.
        channels_last: the memory order of [B, C, H, W] features, which is the network's (`trainer.channels_last`): a
            dropout at the cut draws its mask in that order. They are stored channels-last, so False costs a copy.
        dtype: features are given in this type, whatever they are stored in.
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
        """Of one image's features."""
        return tuple(unpack(self.entry.tensor[:1]).shape[1:])

    def __len__(self) -> int:
        return self.rows.shape[1]

    def whole(self) -> FeatureRows:
        """Every view of every image as a vector, a view after the other."""
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
