"""predictions.csv: the network's answer to each image of a part, for the report and for other tools."""

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
from graft.results.left_out import Truth
from graft.system.documents import Malformed, read_text
from graft.system.files import write_text
from graft.system.tables import plain_text, row_cells
from graft.tasks.answers import JOINT
from graft.tasks.evaluate import Floats

FILE = "predictions.csv"
FIXED = ("part", "path")
FOLD = "fold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """The paths of a part's images, their truth (classes [N], or labels or numbers [N, K]) and answers [N, K]."""

    part: str
    paths: tuple[str, ...]
    truth: Truth
    answers_NK: Floats
    task: TaskKind = TaskKind.single_label
    folds: tuple[int, ...] = ()
    """With cross-validation, the fold that each image was predicted in; else empty."""


def in_order_of(predictions: Predictions, other: Predictions) -> Predictions | None:
    """The rows of `other` in the order of `predictions`; None if their images, truth or number of outputs differ."""
    place = {path: row for row, path in enumerate(other.paths)}
    same_answers = predictions.task is other.task and predictions.answers_NK.shape[1] == other.answers_NK.shape[1]
    if not same_answers or len(predictions.paths) != len(other.paths) or set(place) != set(predictions.paths):
        return None
    rows = [place[path] for path in predictions.paths]
    if (other.truth[rows] != predictions.truth).any():
        return None
    return Predictions(
        part=other.part,
        paths=predictions.paths,
        truth=predictions.truth,
        answers_NK=other.answers_NK[rows],
        task=predictions.task,
    )


def write_predictions(folder: Path | str, parts: Sequence[Predictions], *, classes: Sequence[str] = ()) -> None:
    """Writes the folder's predictions.csv, replacing an earlier one.

    Answers have all nine digits of float32. With fewer, different answers could become equal, which changes the AUROC.

    Args:
        parts: the parts of one run, with the same task.
        classes: names of the classes, labels or numbers; empty: indices are used as names.
    """
    (task,) = {predictions.task for predictions in parts}
    names = list(classes) or [str(k) for k in range(parts[0].answers_NK.shape[1])]
    layout = LAYOUTS[task]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    crossed = any(predictions.folds for predictions in parts)
    writer.writerow(row_cells([*FIXED, *([FOLD] if crossed else []), *layout.header(names)]))
    for predictions in parts:
        folds = predictions.folds or [""] * len(predictions.paths)
        for path, fold, label, row in zip(
            predictions.paths, folds, predictions.truth.tolist(), predictions.answers_NK.tolist(), strict=True
        ):
            cells = [*([fold] if crossed else []), *layout.cells(label, names), *(f"{value:.9g}" for value in row)]
            writer.writerow(row_cells([predictions.part, path, *cells]))
    write_text(Path(folder) / FILE, text.getvalue())


def read_predictions(path: Path | str) -> dict[str, Predictions]:
    """Reads the parts of a predictions.csv, in the file's order.

    Raises:
        InputError: the file is no such table, or is damaged.
    """
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
        layout.check(truth, answers)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path}: expected numbers in {layout.true} and {layout.answer}*, received something else ({error})"
        ) from error
    return Predictions(
        part=part, paths=tuple(plain_text(row["path"]) for row in rows), truth=truth, answers_NK=answers, task=task
    )


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        columns, rows = reader.fieldnames or (), list(reader)
    except (Malformed, csv.Error) as error:
        raise InputError(f"{path}: expected a CSV file, received another ({error}); try the run again") from error
    if _task_of(columns) is None:
        forms = " or ".join(", ".join((*FIXED, *layout.header(["0"]))) for layout in LAYOUTS.values())
        raise InputError(f"{path}: expected the columns {forms} …, received {', '.join(columns) or 'none'}")
    return rows


def _task_of(columns: Sequence[str]) -> TaskKind | None:
    """The task whose layout these columns have; None if there is none."""
    fitting = (kind for kind, layout in LAYOUTS.items() if set(FIXED) <= set(columns) and layout.fits(columns))
    return next(fitting, None)


class Layout(ABC):
    """The columns of one task's truth and answers."""

    true: str
    """Name, or prefix of the names, of the columns with the truth."""
    answer: str
    """Prefix of the names of the columns with answers."""

    @abstractmethod
    def header(self, names: Sequence[str]) -> list[str]: ...

    @abstractmethod
    def cells(self, label: Any, names: Sequence[str]) -> list[Any]:
        """The cells of one image's truth."""

    def fits(self, columns: Sequence[str]) -> bool:
        return all(any(column.startswith(begin) for column in columns) for begin in (self.true, self.answer))

    def check(self, truth: Truth, answers_NK: Floats) -> None:
        """Raises ValueError for numbers that no run writes."""
        if not np.isfinite(answers_NK).all():
            raise ValueError("an answer that is no finite number")

    def truth(self, rows: Sequence[Mapping[str, str]]) -> Truth:
        columns = [column for column in rows[0] if column.startswith(self.true)]
        return np.array([[float(row[column]) for column in columns] for row in rows], dtype=np.float64)


class _OneClass(Layout):
    """label, target: the class's name and its index."""

    true, answer = "target", "prob_"

    def header(self, names: Sequence[str]) -> list[str]:
        return ["label", self.true, *(f"{self.answer}{k}" for k in range(len(names)))]

    def cells(self, label: Any, names: Sequence[str]) -> list[Any]:
        return [names[label], int(label)]

    def truth(self, rows: Sequence[Mapping[str, str]]) -> Truth:
        return np.array([int(row[self.true]) for row in rows], dtype=np.int64)

    def check(self, truth: Truth, answers_NK: Floats) -> None:
        super().check(truth, answers_NK)
        if not ((truth >= 0) & (truth < answers_NK.shape[1])).all():
            raise ValueError("a class without a probability")


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
