"""The files of the learning-rate range test in a run's folder: lr_find.json and its plot, lr_find.png."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.config.faults import InputError
from graft.results.run_forms import read_document
from graft.system.files import atomic_path, write_json

FILE = "lr_find.json"
PLOT = "lr_find.png"


def write_rate_search(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes both files.

    Args:
        record: `RangeTest.to_dict()`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    write_json(folder / FILE, dict(record))
    figure = Figure(figsize=(6, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="optimizer.lr", ylabel="loss", xscale="log")
    axes.plot(record["rates"], record["losses"], color="0.75", label="of each batch")
    axes.plot(record["rates"], record["smoothed"], label="smoothed")
    axes.axvline(record["suggestion"], color="C3", linestyle=":", label=f"suggested: {record['suggestion']:g}")
    low, high = min(record["smoothed"]), record["smoothed"][0]
    axes.set_ylim(low - 0.3 * (high - low), high + 0.5 * (high - low))
    axes.legend()
    with atomic_path(folder / PLOT) as temporary:
        canvas.print_png(temporary)


def recorded_rate(checkpoint: Path, folder: Path) -> float:
    """The learning rate that the checkpoint's run found. Copies that run's files into `folder`.

    Raises:
        InputError: that run has no record, or a damaged one.
    """
    source = checkpoint.resolve().parent.parent
    if not (source / FILE).is_file():
        raise InputError(
            f"optimizer.lr: expected {source / FILE}, where the run to resume recorded the learning rate that it found,"
            " received no such file; try optimizer.lr=VALUE as that run had it, or resume=never"
        )
    rate = read_document(source / FILE).get("suggestion")
    if not isinstance(rate, int | float):
        raise InputError(
            f"{source / FILE}: expected the learning rate under `suggestion`, received {rate!r}; try"
            " optimizer.lr=VALUE as that run had it, or resume=never"
        )
    for name in (FILE, PLOT):
        if source != folder.resolve() and (source / name).is_file():
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(source / name, temporary)
    return float(rate)
