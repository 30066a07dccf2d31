"""Whether the parts are apart: checked before anything is planned."""

from __future__ import annotations

from pathlib import Path

from graft.audit.copies import check_copies
from graft.audit.groups import check_groups
from graft.config.faults import Faults
from graft.config.schema_images import DataConfig
from graft.data.table import Table
from graft.system.processes import is_first


def check_parts(table: Table, data: DataConfig, folder: Path | None = None) -> None:
    """Lists in the folder what stands in two parts, and what was corrected.

    Raises:
        InputError: an image or a group stands in two parts, or an image under two labels, and that is not accepted.
    """
    if folder is not None and is_first():
        table.corrections.write(folder)
    faults = Faults()
    faults.attempt(lambda: check_copies(table, data.accept, folder))
    faults.attempt(lambda: check_groups(table, data.group, data.accept, folder))
    faults.settle()
