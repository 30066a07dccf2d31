"""predictions.csv: what the network said of each image of a part, for the report and for other tools."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graft.config.faults import InputError
from graft.files import write_text
from graft.results.evaluate import Floats, Ints

FILE = "predictions.csv"
FIXED = ("part", "path", "label", "target")


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """One part's images: paths, true classes [N] and probabilities [N, K]."""

    part: str
    paths: tuple[str, ...]
    targets_N: Ints
    probabilities_NK: Floats


def in_order_of(said: Predictions, other: Predictions) -> Predictions | None:
    """The second's rows in the first's order; None where they are not about the same images and classes."""
    place = {path: row for row, path in enumerate(other.paths)}
    same_classes = said.probabilities_NK.shape[1] == other.probabilities_NK.shape[1]
    if not same_classes or len(said.paths) != len(other.paths) or set(place) != set(said.paths):
        return None
    rows = [place[path] for path in said.paths]
    if (other.targets_N[rows] != said.targets_N).any():
        return None
    return Predictions(
        part=other.part, paths=said.paths, targets_N=said.targets_N, probabilities_NK=other.probabilities_NK[rows]
    )


def write_predictions(
    folder: Path | str,
    part: str,
    paths: Sequence[str],
    labels: Sequence[int],
    probabilities: Sequence[Sequence[float]],
    *,
    classes: Sequence[str] = (),
) -> None:
    """Writes or replaces one part's rows in the folder's predictions.csv; the other parts' rows stay.

    Args:
        labels: the true class of each image, as an index. The file has it as `target`, and its name as `label`.
        probabilities: a row per image, a column per class.
        classes: the classes' names; without them `label` repeats the index.
    """
    assert len(paths) == len(labels) == len(probabilities), "one path, label and row of probabilities an image"
    path = Path(folder) / FILE
    columns = len(probabilities[0]) if len(probabilities) else len(classes)
    header = [*FIXED, *(f"prob_{k}" for k in range(columns))]
    rows = _rows(path) if path.exists() else []
    kept = [row for row in rows if row["part"] != part and list(row) == header]  # another class count is another run
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([row[column] for column in header] for row in kept)
    for name, label, row in zip(paths, labels, probabilities, strict=True):
        shown = classes[label] if classes else label
        writer.writerow([part, name, shown, int(label), *(f"{float(value):.6g}" for value in row)])
    write_text(path, text.getvalue())


def read_predictions(path: Path | str) -> dict[str, Predictions]:
    """The parts of a predictions.csv, in the file's order."""
    parts: dict[str, list[dict[str, str]]] = {}
    for row in _rows(Path(path)):
        parts.setdefault(row["part"], []).append(row)
    return {part: _predictions(part, rows, Path(path)) for part, rows in parts.items()}


def _predictions(part: str, rows: list[dict[str, str]], path: Path) -> Predictions:
    columns = [column for column in rows[0] if column.startswith("prob_")]
    try:
        targets = np.array([int(row["target"]) for row in rows], dtype=np.int64)
        probabilities = np.array([[float(row[column]) for column in columns] for row in rows], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: expected numbers in target and prob_*, received something else ({error})") from error
    return Predictions(
        part=part, paths=tuple(row["path"] for row in rows), targets_N=targets, probabilities_NK=probabilities
    )


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [column for column in (*FIXED, "prob_0") if column not in (reader.fieldnames or ())]
        if missing:
            raise InputError(f"{path}: expected the columns {', '.join(FIXED)}, prob_0 …, received no {missing[0]}")
        return list(reader)
