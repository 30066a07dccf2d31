"""Reads a run's folder for the report and for the comparison of runs."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.config.figures import Figure, figures_of
from graft.results import predictions
from graft.results.predictions import Predictions, read_predictions
from graft.results.run_forms import read_document
from graft.system.documents import MOST_YAML_BYTES, Malformed, read_text, yaml_values
from graft.system.forms import MOST

Json = dict[str, Any]
CONTROLS = "controls"
"""The subfolder of a run in which `graft controls` writes the control runs."""


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """The contents of a run's folder. A missing file is an empty value."""

    folder: Path
    metrics: Json = field(default_factory=dict)
    """metrics.json"""
    history: list[dict[str, float]] = field(default_factory=list)
    """metrics.csv, one row per epoch; cells without a number are left out"""
    plan: Json = field(default_factory=dict)
    """plan.json"""
    ledger: Json = field(default_factory=dict)
    """transfer.json"""
    drift: Json = field(default_factory=dict)
    """drift.json"""
    lr_find: Json = field(default_factory=dict)
    """lr_find.json"""
    model: Json = field(default_factory=dict)
    """model/model.json"""
    predictions: Mapping[str, Predictions] = field(default_factory=dict)
    """predictions.csv by part"""
    config: str = ""
    """.hydra/config.yaml as text"""
    overrides: tuple[str, ...] = ()
    """.hydra/overrides.yaml"""
    controls: Mapping[str, RunRecord] = field(default_factory=dict)
    """The finished control runs by name"""

    @property
    def classes(self) -> tuple[str, ...]:
        named = self.model.get("classes") or self.plan.get("classes") or ()
        if named:
            return tuple(str(name) for name in named)
        columns = max((part.answers_NK.shape[1] for part in self.predictions.values()), default=0)
        return tuple(f"class {k}" for k in range(columns))

    @property
    def task(self) -> TaskKind:
        """The run's task. Old runs have no record of it, and are single-label."""
        record = self.model.get("task") or self.plan.get("task") or {}
        return TaskKind(record.get("kind", TaskKind.single_label.value))

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The figures of its task, and those of its user's own."""
        return figures_of(self.task, self.plan.get("metrics") or ())

    @property
    def intervals(self) -> Json:
        """part/figure to its interval; empty if the run has no record of them."""
        record = self.model.get("intervals")
        return cast(Json, record) if isinstance(record, dict) else {}

    @property
    def network(self) -> str:
        return str(self.model.get("build", {}).get("name") or self.plan.get("backbone") or "")

    @property
    def dataset(self) -> str:
        return str(self.data.get("kind") or "")

    @property
    def data(self) -> Json:
        """The table's summary: `parts`, with the number of images of each class, and the `skipped` files."""
        record = self.plan.get("data")
        return cast(Json, record) if isinstance(record, dict) else {}

    @property
    def command(self) -> str:
        return str(self.model.get("command") or shlex.join(["python", "train.py", *self.overrides]))

    @property
    def judged(self) -> str:
        """The part by which the run is judged: test if there is one, else val."""
        parts = {*self.predictions, *(name.split("/")[0] for name in self.metrics)}
        return "test" if "test" in parts else "val"

    @property
    def stages(self) -> tuple[str, ...]:
        """The trunk's stages in forward order, then the head."""
        return tuple(str(stage["name"]) for stage in self.plan.get("stages", []))

    @property
    def spans(self) -> list[Json]:
        """The phases as they were carried out, or as planned if the run has not ended."""
        return self.metrics.get("phases") or self.plan.get("phases", [])

    @property
    def thaw_warmup(self) -> float:
        """The number of epochs in which a thawed stage reaches its full learning rate."""
        return float(self.plan.get("thaw_warmup_steps", 0)) / float(self.plan.get("steps_per_epoch") or 1)

    @property
    def phases(self) -> list[tuple[float, float, frozenset[str]]]:
        """(start, end, frozen stages) of each phase, in epochs."""
        spans = self.spans
        starts = [float(span.get("start_epoch", 0)) for span in spans]
        end = max(float(self.metrics.get("epochs") or self.plan.get("epochs") or 1), max(starts, default=0))
        stops = [*starts[1:], end][: len(starts)]
        return [
            (start, stop, frozenset(span.get("frozen_stages", ())))
            for span, start, stop in zip(spans, starts, stops, strict=True)
            if stop > start
        ]

    def column(self, name: str) -> tuple[list[float], list[float]]:
        """(epochs done, values) of a metric, at the epochs where it was recorded."""
        rows = [row for row in self.history if name in row]
        return [row.get("epoch", place) for place, row in enumerate(rows, 1)], [row[name] for row in rows]


def read_run(folder: Path | str) -> RunRecord:
    """Reads a run's folder.

    Raises:
        InputError: it is no run's folder, or one of its files is damaged.
    """
    folder = Path(folder)
    if not (folder / "metrics.json").is_file() and not (folder / "plan.json").is_file():
        raise InputError(
            f"{folder}: expected a run's folder (metrics.json, plan.json), received "
            f"{'a folder without them' if folder.is_dir() else 'no folder'}; try one below outputs/"
        )
    table = folder / predictions.FILE
    record = RunRecord(
        folder=folder,
        metrics=read_document(folder / "metrics.json"),
        history=_history(folder / "metrics.csv"),
        plan=read_document(folder / "plan.json"),
        ledger=read_document(folder / "transfer.json"),
        drift=read_document(folder / "drift.json"),
        lr_find=read_document(folder / "lr_find.json"),
        model=read_document(folder / "model" / "model.json"),
        predictions=read_predictions(table) if table.is_file() else {},
        config=_text(folder / ".hydra" / "config.yaml"),
        overrides=_overrides(folder / ".hydra" / "overrides.yaml"),
        controls={
            path.parent.name: read_run(path.parent) for path in sorted((folder / CONTROLS).glob("*/metrics.json"))
        },
    )
    _check_classes(record)
    return record


def _check_classes(record: RunRecord) -> None:
    """Raises InputError unless there is a name for each answer of an image."""
    for part in record.predictions.values():
        if part.task is not record.task or part.answers_NK.shape[1] != len(record.classes):
            raise InputError(
                f"{record.folder}: expected predictions of {record.task.value} with {len(record.classes)} answers an"
                f" image, as model.json and plan.json have it, received {part.task.value} with"
                f" {part.answers_NK.shape[1]}; try the run again"
            )


def _history(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    try:
        return [_numbers(row) for row in csv.DictReader(io.StringIO(read_text(path), newline=""))]
    except (Malformed, csv.Error) as error:
        raise InputError(f"{path}: expected a CSV file, received another ({error}); try the run again") from error


def _numbers(row: Mapping[str | None, Any]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, cell in row.items():
        try:
            value = float(cell)
        except (TypeError, ValueError):
            continue
        if not abs(value) > MOST:  # what is undefined stays NaN
            numbers[str(name)] = value
    return numbers


def _text(path: Path) -> str:
    try:
        return read_text(path, MOST_YAML_BYTES) if path.is_file() else ""
    except Malformed as error:
        raise InputError(f"{path}: expected YAML, received something else ({error}); try the run again") from None


def read_yaml(text: str, path: Path) -> Any:
    """Parses YAML as plain values.

    Args:
        path: the file that the text is from, for the message.

    Raises:
        InputError: the text is no YAML.
    """
    try:
        return yaml_values(text)
    except Malformed as error:
        raise InputError(f"{path}: expected YAML, received something else ({error}); try the run again") from None


def _overrides(path: Path) -> tuple[str, ...]:
    """The overrides in the YAML list that Hydra writes."""
    listed = read_yaml(_text(path), path)
    return tuple(map(str, cast("list[Any]", listed))) if isinstance(listed, list) else ()
