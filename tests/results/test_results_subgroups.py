"""Figures by a column: the worst value first, and what is not in the table refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from graft.config.choices import TaskKind
from graft.config.command_line import check_command_line
from graft.config.compose import register
from graft.results.predictions import Predictions
from graft.results.proportions import wilson
from graft.results.subgroups import in_words, subgroups
from tests.pipeline.coloured import carried_out, write_images_and_donor

CONF = Path(__file__).resolve().parents[2] / "conf"
register()


def test_the_worst_value_comes_first() -> None:
    right = [True] * 9 + [False] + [True] * 5 + [False] * 5 + [True] * 2
    truth = np.array([0, 1] * 11)
    answers = np.eye(2)[np.where(right, truth, 1 - truth)] * 0.8 + 0.1
    predictions = Predictions(part="test", paths=tuple(map(str, range(22))), truth=truth, answers_NK=answers)
    cameras = ["B"] * 10 + ["A"] * 10 + [""] * 2
    record = subgroups([predictions], {str(k): {"camera": camera} for k, camera in enumerate(cameras)}, ["camera"])
    entries = record["test"]["camera"]
    assert [(entry["value"], entry["images"], entry["accuracy"]) for entry in entries] == [
        ("A", 10, 0.5), ("B", 10, 0.9), ("(empty)", 2, 1.0),
    ]  # fmt: skip
    assert entries[0]["accuracy_interval"] == pytest.approx(list(wilson(0.5, 10, 0.95)))
    (line,) = in_words(record, "test", TaskKind.single_label)
    assert line.startswith("by camera, worst first: accuracy 0.5000 of A (10 images, 0.237 to 0.763), 0.9000 of B")


def test_of_an_error_the_highest_is_the_worst() -> None:
    truth = np.zeros((4, 1))
    answers = np.array([[0.1], [0.1], [0.5], [0.7]])
    predictions = Predictions(
        part="val", paths=("a", "b", "c", "d"), truth=truth, answers_NK=answers, task=TaskKind.regression
    )
    cells = {path: {"site": site} for path, site in zip("abcd", "xxyy", strict=True)}
    entries = subgroups([predictions], cells, ["site"])["val"]["site"]
    assert [(entry["value"], entry["mae"]) for entry in entries] == [("y", pytest.approx(0.6)), ("x", 0.1)]


def faults(*words: str) -> list[str]:
    return [str(fault) for fault in check_command_line(["data=csv", *words], CONF)]


def test_a_column_that_is_not_there_is_refused_with_what_is(tmp_path: Path) -> None:
    table = tmp_path / "split.csv"
    table.write_text("path, label, camera\na.png,x,1\n")
    assert faults(f"data.root={table}", "results.by=[camera]") == []
    (fault,) = faults(f"data.root={table}", "results.by=[camara]")
    assert "path, label, camera" in fault
    assert "results.by=[camera]" in fault


def test_images_without_a_table_have_no_columns() -> None:
    (fault,) = (str(fault) for fault in check_command_line(["results.by=[camera]"], CONF))
    assert "data=csv" in fault


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("results.sensitivity=0.9", "results.cost=2"), "results.cost"),
        (("results.positive=x",), "results.positive"),
        (("results.sensitivity=1.5",), "results.sensitivity"),
        (("results.cost=2", "data.task=multi_label"), "results.cost"),
    ],
)
def test_thresholds_that_cannot_be_are_refused(tmp_path: Path, words: tuple[str, ...], key: str) -> None:
    table = tmp_path / "split.csv"
    table.write_text("path,label\na.png,x\n")
    assert [fault.split(":")[0] for fault in faults(f"data.root={table}", *words)] == [key]


def test_a_run_tells_both(tmp_path: Path) -> None:
    write_images_and_donor(tmp_path, images=18, brighter=25)
    rows = ["path,label,split,camera"]
    for part in ("train", "val", "test"):
        shutil.rmtree(tmp_path / "images" / part / "blue")
        for number, file in enumerate(sorted((tmp_path / "images" / part).rglob("*.png"))):
            rows.append(f"images/{part}/{file.parent.name}/{file.name},{file.parent.name},{part},{'AB'[number % 2]}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    words = ("data=csv", f"data.root={tmp_path / 'table.csv'}", "results.by=[camera]", "results.sensitivity=0.9")
    metrics = carried_out(tmp_path, tmp_path, *words, "results.positive=green")
    entries = metrics["by"]["test"]["camera"]
    assert sorted((entry["value"], entry["images"]) for entry in entries) == [("A", 6), ("B", 6)]
    mean = sum(entry["images"] * entry["accuracy"] for entry in entries) / 12
    assert mean == pytest.approx(metrics["test/accuracy"])
    assert metrics["threshold"]["positive"] == "green"
    assert metrics["threshold"]["parts"]["val"]["sensitivity"] >= 0.9
    record = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert record["threshold"] == metrics["threshold"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "test by camera" in page
    assert "green is named from a probability" in page
