"""What the results cannot be told by: rules of rules.py's kind."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from graft.config.choices import DataKind, TaskKind
from graft.config.faults import Fault, nearest

Values = Mapping[str, Any]


def header_of(root: str | None) -> list[str]:
    """The columns of a CSV table; none where it cannot be read, which is refused elsewhere."""
    try:
        with open(Path(root or "").expanduser(), encoding="utf-8-sig", newline="") as file:
            return [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _columns_exist(values: Values) -> Iterator[Fault]:
    wanted, kind = values["results.by"], values["data.kind"]
    if wanted and kind is not DataKind.csv:
        yield Fault(
            key="results.by",
            expected=f"nothing with data={kind.value}, whose images have no table of columns",
            received=repr(wanted),
            remedy="data=csv data.root=FILE.csv",
        )
        return
    columns = header_of(values["data.root"]) if wanted else []
    missing = [name for name in wanted if name not in columns]
    if columns and missing:
        near = [name for column in missing for name in nearest(column, columns, 1)]
        yield Fault(
            key="results.by",
            expected=f"columns of {values['data.root']} ({', '.join(columns)})",
            received=", ".join(missing),
            remedy=f"results.by=[{','.join(near)}]" if near else "results.by=[] or one of these",
        )


def _one_threshold(values: Values) -> Iterator[Fault]:
    sensitivity, cost, positive = (values[f"results.{name}"] for name in ("sensitivity", "cost", "positive"))
    task = values["data.task"]
    if sensitivity is not None and cost is not None:
        yield Fault(
            key="results.cost",
            expected="nothing beside results.sensitivity, as there is one threshold",
            received=f"{cost:g}",
            remedy="either of them",
        )
    if sensitivity is None and cost is None:
        if positive is not None:
            yield Fault(
                key="results.positive",
                expected="nothing without results.sensitivity or results.cost, where it has no effect",
                received=repr(positive),
                remedy="results.sensitivity=0.95",
            )
    elif task is not TaskKind.single_label:
        yield Fault(
            key="results.sensitivity" if cost is None else "results.cost",
            expected=f"nothing with data.task={task.value}: a threshold parts two classes",
            received=f"{sensitivity if cost is None else cost:g}",
            remedy="data.task=single_label, or without it",
        )


def _folds(values: Values) -> Iterator[Fault]:
    folds, fold = values["data.folds"], values["data.fold"]
    if fold is not None and (folds is None or fold >= folds):
        yield Fault(
            key="data.fold",
            expected="nothing without data.folds" if folds is None else f"a fold from 0 to {folds - 1}",
            received=str(fold),
            remedy="data.folds=5" if folds is None else f"data.fold={folds - 1}",
        )
    if folds is not None and fold is None and values["head.refit"]:
        yield Fault(
            key="head.refit",
            expected="false with data.folds, whose head is solved on every image outside the test part anyway",
            received="true",
            remedy="head.refit=false",
        )
    if folds is not None and fold is None and values["cache.views"]:
        yield Fault(
            key="cache.views",
            expected="0 with data.folds: every image is judged as it is",
            received=str(values["cache.views"]),
            remedy="cache.views=0 augment=none, or data.fold=0,1,2,3,4 with -m",
        )


RESULTS_RULES: tuple[tuple[tuple[str, ...], Callable[[Values], Iterator[Fault]]], ...] = (
    (("data.folds", "data.fold", "head.refit", "cache.views"), _folds),
    (("results.by", "data.kind", "data.root"), _columns_exist),
    (("results.sensitivity", "results.cost", "results.positive", "data.task"), _one_threshold),
)
