"""Writes src/graft/models/architectures.csv: what `graft inspect` knows torchvision's and timm's models by.

    python scripts/index_architectures.py

Each model is built on the meta device, without storage, where it can be. Rows that are there already are kept, so that
an interrupted run goes on where it stopped; `--afresh` writes all again, as is due after an upgrade of either library.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import time
from importlib.metadata import version
from pathlib import Path

from graft.config.choices import Library
from graft.config.faults import InputError
from graft.models.architectures import COLUMNS, TABLE, Architecture, row_cells, row_of, table
from graft.models.backbones import construct, model_names
from graft.system.files import write_text

CLASSES = 1013  # a prime that is no layer's width
EVERY = 60.0  # seconds between two writes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--afresh", action="store_true", help="build every model again")
    path = Path(__file__).resolve().parents[1] / "src" / "graft" / "models" / TABLE
    afresh = parser.parse_args().afresh or not path.is_file()
    known = {} if afresh else {(row.library, row.name): row for row in table()}
    rows: dict[tuple[str, str], Architecture] = {}
    wanted = [(library, name) for library in Library for name in model_names(library)]
    last = time.monotonic()
    for place, (library, name) in enumerate(wanted, start=1):
        key = (library.value, name)
        rows[key] = known[key] if key in known else index(library, name)
        if time.monotonic() - last > EVERY:
            write(path, {**known, **rows})
            last = time.monotonic()
            print(f"{place} of {len(wanted)}", file=sys.stderr)
    write(path, rows)


def index(library: Library, name: str) -> Architecture:
    try:
        module = construct(library, name, {}, num_classes=CLASSES, device="meta")
    except InputError:  # a constructor that computes with what it has just made
        module = construct(library, name, {}, num_classes=CLASSES)
    shapes = {tensor: tuple(value.shape) for tensor, value in module.state_dict().items()}
    return row_of(library.value, name, shapes, CLASSES)


def write(path: Path, rows: dict[tuple[str, str], Architecture]) -> None:
    text = io.StringIO()
    text.write(f"# torchvision {version('torchvision')}, timm {version('timm')}; scripts/index_architectures.py\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row_cells(row) for row in rows.values())
    write_text(path, text.getvalue())


if __name__ == "__main__":
    main()
