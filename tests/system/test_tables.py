"""CSV that a spreadsheet opens without computing what other people wrote."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graft.commands.audit import FIELDS
from graft.commands.predict import _write_csv, _write_jsonl
from graft.config.choices import TaskKind
from graft.inference.classify import FORMS
from graft.results.predictions import Predictions, read_predictions, write_predictions
from graft.system.tables import csv_text, plain_text, text_cell

NAMES = ["=cmd|'/c calc'!A0", "+1+1", "-x", "@SUM(A1)", "\tx", "'=x", "''", "plain", "Zürich"]


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_is_a_formula_and_each_is_read_back(name: str) -> None:
    assert not text_cell(name).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert plain_text(text_cell(name)) == name


def test_numbers_stay_numbers() -> None:
    assert csv_text([FIELDS, ("=a", -1.5, "-2.5", "1e-3", 3)]).splitlines()[1] == "'=a,-1.5,-2.5,1e-3,3"


def test_predictions_are_safe_and_read_back(tmp_path: Path) -> None:
    paths = (*(f"{name}.png" for name in NAMES), "not utf-8 \udcff.png")
    predictions = Predictions(
        part="val", paths=paths, truth=np.zeros(len(paths), np.int64), answers_NK=np.full((len(paths), 2), 0.5)
    )
    write_predictions(tmp_path, [predictions], classes=["=evil", "good"])
    rows = list(csv.reader(io.StringIO((tmp_path / "predictions.csv").read_text(encoding="utf-8"))))
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]
    assert read_predictions(tmp_path / "predictions.csv")["val"].paths[:-1] == paths[:-1]


@pytest.mark.parametrize("write", [_write_csv, _write_jsonl])
def test_predict_writes_names_that_steer_nothing(write: Callable[..., None]) -> None:
    form = FORMS[TaskKind.single_label](("=evil\x1b[2J\x9b", "good"), top=1, threshold=None)
    file = io.StringIO()
    write([form.answer("=a\x1b\x9b.png", [0.9, 0.1])], file, form)
    text = file.getvalue()
    assert not set("\x1b\x9b") & set(text)
    if write is _write_csv:
        assert text.splitlines()[1].startswith("'=a")
        assert ",'=evil" in text
