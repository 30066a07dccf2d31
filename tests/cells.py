"""The solar cells' tables for tests. A process decodes the cells once, whatever the ways in which they are read."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from graft.config.choices import DataKind
from graft.config.schema_images import DataConfig
from graft.data.datasets import load_table
from graft.data.pictures import Pictures
from graft.data.table import Table


@cache
def cells(**settings: Any) -> Table:
    """The table of data=solar_cells with these settings of `data`."""
    data = DataConfig(kind=DataKind.solar_cells, **settings)
    return load_table(data, pictures=Pictures(data.channels, Path(_folder().name) / "pictures"))


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="graft-cells-")
