"""predictions.csv: what the network said of each image of a part, for the report and for other tools."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.files import write_text
from graft.results.answers import JOINT
from graft.results.evaluate import Floats
from graft.results.resampling import Truth

FILE = "predictions.csv"
FIXED = ("part", "path")


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """One part's images: paths, the truth ([N] classes, or [N, K] labels or numbers) and answers [N, K]."""

    part: str
    paths: tuple[str, ...]
    truth: Truth
    answers_NK: Floats
    task: TaskKind = TaskKind.single_label


def in_order_of(said: Predictions, other: Predictions) -> Predictions | None:
    """The second's rows in the first's order; None where they are not about the same images and classes."""
    place = {path: row for row, path in enumerate(other.paths)}
    same_answers = said.task is other.task and said.answers_NK.shape[1] == other.answers_NK.shape[1]
    if not same_answers or len(said.paths) != len(other.paths) or set(place) != set(said.paths):
        return None
    rows = [place[path] for path in said.paths]
    if (other.truth[rows] != said.truth).any():
        return None
    return Predictions(
        part=other.part, paths=said.paths, truth=said.truth, answers_NK=other.answers_NK[rows], task=said.task
    )


def write_predictions(
    folder: Path | str,
    part: str,
    paths: Sequence[str],
    labels: Sequence[Any],
    answers: Sequence[Sequence[float]],
    *,
    classes: Sequence[str] = (),
    task: TaskKind = TaskKind.single_label,
) -> None:
    """Writes or replaces one part's rows in the folder's predictions.csv; the other parts' rows stay.

    Args:
        labels: of each image the position of its class, or a value for each label or number.
        answers: a row per image, a column per class, label or number.
        classes: their names; without them positions stand in for names.
    """
    assert len(paths) == len(labels) == len(answers), "one path, label and row of answers an image"
    path = Path(folder) / FILE
    columns = len(answers[0]) if len(answers) else len(classes)
    names = list(classes) or [str(k) for k in range(columns)]
    layout = LAYOUTS[task]
    header = [*FIXED, *layout.header(names)]
    rows = _rows(path) if path.exists() else []
    kept = [row for row in rows if row["part"] != part and list(row) == header]  # another class count is another run
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([row[column] for column in header] for row in kept)
    for name, label, row in zip(paths, labels, answers, strict=True):
        writer.writerow([part, name, *layout.cells(label, names), *(f"{float(value):.6g}" for value in row)])
    write_text(path, text.getvalue())


def read_predictions(path: Path | str) -> dict[str, Predictions]:
    """The parts of a predictions.csv, in the file's order."""
    parts: dict[str, list[dict[str, str]]] = {}
    for row in _rows(Path(path)):
        parts.setdefault(row["part"], []).append(row)
    return {part: _predictions(part, rows, Path(path)) for part, rows in parts.items()}


def _predictions(part: str, rows: list[dict[str, str]], path: Path) -> Predictions:
    task = _task_of(list(rows[0]))
    assert task is not None, "the header was looked at"
    layout = LAYOUTS[task]
    columns = [column for column in rows[0] if column.startswith(layout.answer)]
    try:
        truth = layout.truth(rows)
        answers = np.array([[float(row[column]) for column in columns] for row in rows], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected numbers in {layout.true} and {layout.answer}*, received something else ({error})"
        ) from error
    return Predictions(part=part, paths=tuple(row["path"] for row in rows), truth=truth, answers_NK=answers, task=task)


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if _task_of(reader.fieldnames or ()) is None:
            forms = " or ".join(", ".join((*FIXED, *layout.header(["0"]))) for layout in LAYOUTS.values())
            raise InputError(
                f"{path}: expected the columns {forms} …, received {', '.join(reader.fieldnames or ()) or 'none'}"
            )
        return list(reader)


def _task_of(columns: Sequence[str]) -> TaskKind | None:
    """Whose layout these columns are."""
    fitting = (kind for kind, layout in LAYOUTS.items() if set(FIXED) <= set(columns) and layout.fits(columns))
    return next(fitting, None)


class Layout(ABC):
    """How one task's truth and answers stand in the table."""

    true: str
    """Column, or the beginning of those, that hold the truth."""
    answer: str
    """The beginning of the columns that hold answers."""

    @abstractmethod
    def header(self, names: Sequence[str]) -> list[str]: ...

    @abstractmethod
    def cells(self, label: Any, names: Sequence[str]) -> list[Any]:
        """Of the truth."""

    def fits(self, columns: Sequence[str]) -> bool:
        return all(any(column.startswith(begin) for column in columns) for begin in (self.true, self.answer))

    def truth(self, rows: Sequence[Mapping[str, str]]) -> Truth:
        columns = [column for column in rows[0] if column.startswith(self.true)]
        return np.array([[float(row[column]) for column in columns] for row in rows], dtype=np.float64)


class _OneClass(Layout):
    """label, target: the class's name and its position."""

    true, answer = "target", "prob_"

    def header(self, names: Sequence[str]) -> list[str]:
        return ["label", self.true, *(f"{self.answer}{k}" for k in range(len(names)))]

    def cells(self, label: Any, names: Sequence[str]) -> list[Any]:
        return [names[label], int(label)]

    def truth(self, rows: Sequence[Mapping[str, str]]) -> Truth:
        return np.array([int(row[self.true]) for row in rows], dtype=np.int64)


class _SeveralClasses(Layout):
    """label, true_k: the names of the image's labels, and 1 or 0 for each."""

    true, answer = "true_", "prob_"

    def header(self, names: Sequence[str]) -> list[str]:
        return ["label", *(f"{begin}{k}" for begin in (self.true, self.answer) for k in range(len(names)))]

    def cells(self, label: Any, names: Sequence[str]) -> list[Any]:
        shown = JOINT.join(name for name, share in zip(names, label, strict=True) if share)
        return [shown, *(int(share) for share in label)]


class _Numbers(Layout):
    """true_NAME, predicted_NAME."""

    true, answer = "true_", "predicted_"

    def header(self, names: Sequence[str]) -> list[str]:
        return [f"{begin}{name}" for begin in (self.true, self.answer) for name in names]

    def cells(self, label: Any, names: Sequence[str]) -> list[Any]:
        return [f"{float(value):.9g}" for value in label]


LAYOUTS: Mapping[TaskKind, Layout] = {
    TaskKind.single_label: _OneClass(),
    TaskKind.multi_label: _SeveralClasses(),
    TaskKind.regression: _Numbers(),
}
