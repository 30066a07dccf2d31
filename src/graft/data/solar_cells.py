"""Electroluminescence images of solar cells: functional or defective (the package elpv-dataset).

2,624 grey images of 300 by 300 pixels; each cell, monocrystalline or polycrystalline, was annotated with a probability
of being defective: 0, 1/3, 2/3 or 1. Buerhop-Lutz et al. 2018; Deitsch et al. 2019, https://doi.org/10.1016/j.solener.2019.02.067
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from graft.config.choices import TaskKind
from graft.config.faults import Fault, InputError
from graft.config.schema_images import DataConfig
from graft.data.table import ListedImage, Listing

PACKAGE = "elpv_dataset"
CLASSES = ("functional", "defective")
NUMBER = "probability of a defect"
TEST_FRACTION = 0.25
TEST_SEED = 2019
"""The test part is the same in every run, whatever the seeds, so that results can be compared."""


def list_solar_cells(data: DataConfig) -> Listing:
    """Lists every cell: 75 % for training, 25 % for test, stratified by probability and type (Deitsch et al. 2019).

    A cell counts as defective if its annotated probability p is above 0.5. Soft targets are (1 - p, p). In regression,
    p itself is the number to learn.

    Raises:
        InputError: the package is not installed, or lacks its files.
    """
    as_number = data.task is TaskKind.regression
    listing = Listing(key="data", classes=(NUMBER,) if as_number else CLASSES, test=(TEST_FRACTION, TEST_SEED))
    if data.root is not None:
        listing.faults.append(
            Fault(
                key="data.root",
                expected="null, as the solar cells come from an installed package",
                received=data.root,
                remedy="data=folder for images of your own",
            )
        )
    folder = _installed() / "data"
    listing.folder = str(folder)
    for line in _lines(folder / "labels.csv"):
        name, probability, kind = line.split()
        p = float(probability)
        label = (p,) if as_number else int(p > 0.5)
        target = None if as_number else (1 - p, p)
        listing.entries.append(
            ListedImage(str(folder / name), name, label=label, target=target, stratum=(probability, kind))
        )
    return listing


def _installed() -> Path:
    """The folder of the package, which is not imported."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "data=solar_cells: expected the package elpv-dataset, which holds the images, received an environment "
            "without it; try pip install 'graft-transfer[demo]'"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _lines(table: Path) -> list[str]:
    try:
        return table.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(
            f"data=solar_cells: expected the package's {table}, received: {error.strerror}; "
            f"try pip install --force-reinstall elpv-dataset"
        ) from error
