"""The source of a run's images and donor. The runs of one process may share them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

from graft.config.choices import CacheKind, Mode
from graft.config.schema import BackboneConfig, Config, DataConfig, DonorConfig
from graft.data.contents import Contents
from graft.data.datasets import load_table, record_of_contents, record_of_pictures
from graft.data.pictures import Pictures
from graft.data.table import Table
from graft.system.processes import is_first
from graft.transfer.chosen import open_chosen
from graft.transfer.donor import Donor


class Inputs:
    """Reads the inputs anew each time."""

    def table(self, config: Config) -> Table:
        """The table of images. With mode=plan and with cache=none, nothing about the images is stored."""
        data, folder = config.data, Path(config.cache.dir)
        writes = config.mode is Mode.train and is_first()
        if config.cache.kind is CacheKind.none:
            return load_table(data)
        return load_table(
            data,
            Contents(record_of_contents(folder, data), writes=writes),
            Pictures(data.channels, record_of_pictures(folder, data), writes=writes),
        )

    def donor(self, config: Config) -> Donor:
        return open_chosen(config.network)


class SharedInputs(Inputs):
    """Keeps the latest of each input for the next run, because most trials of a sweep have both in common."""

    def __init__(self) -> None:
        self._table: tuple[DataConfig, Table] | None = None
        self._donor: tuple[DonorConfig, BackboneConfig, int | None, Donor] | None = None

    def table(self, config: Config) -> Table:
        if self._table is None or self._table[0] != config.data:
            self._table = deepcopy(config.data), super().table(config)
        return self._table[1]

    def donor(self, config: Config) -> Donor:
        """The donor, protected from being closed."""
        size = config.data.image_size  # on which it depends how a Keras file's padding comes out
        if self._donor is None or self._donor[:3] != (config.donor, config.backbone, size):
            if self._donor is not None:
                self._donor[3].close()
            opened = super().donor(config)
            if callable(opened.fingerprint):
                opened.fingerprint = cache(opened.fingerprint)  # hashing a file takes as long as reading it
            self._donor = deepcopy(config.donor), deepcopy(config.backbone), size, opened
        donor = self._donor[3]
        return replace(donor, closer=None, remarks=list(donor.remarks))


@cache
def shared_inputs() -> SharedInputs:
    """The shared inputs of this process."""
    return SharedInputs()
