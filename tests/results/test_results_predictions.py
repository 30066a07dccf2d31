"""predictions.csv keeps its parts apart and comes back as it went."""

import json

import numpy as np
import pytest

from graft.config.faults import InputError
from graft.results.intervals import interval_record, read_intervals
from graft.results.predictions import Predictions, read_predictions, write_predictions


def part(name, paths, truth, answers):
    return Predictions(part=name, paths=paths, truth=np.array(truth), answers_NK=np.array(answers))


def test_round_trip_of_two_parts(tmp_path):
    val = part("val", ("a.png", "b,c.png"), [1, 0], [[0.25, 0.75], [0.5, 0.5]])
    write_predictions(tmp_path, [val, part("test", ("é.png",), [0], [[1 / 3, 2 / 3]])], classes=["ok", "bad"])
    parts = read_predictions(tmp_path / "predictions.csv")
    assert list(parts) == ["val", "test"]
    assert parts["val"].paths == ("a.png", "b,c.png")
    assert parts["val"].truth.tolist() == [1, 0]
    assert parts["test"].answers_NK.tolist() == [[0.333333333, 0.666666667]]
    header, first = (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()[:2]
    assert header == "part,path,label,target,prob_0,prob_1"
    assert first == "val,a.png,bad,1,0.25,0.75"


def test_nothing_stays_of_an_earlier_run_and_nothing_of_it_is_read(tmp_path):
    val, test = (part(name, ("a.png",), [0], [[0.9, 0.1]]) for name in ("val", "test"))
    write_predictions(tmp_path, [val, test])
    write_predictions(tmp_path, [part("val", ("b.png",), [1], [[0.2, 0.8]])])
    parts = read_predictions(tmp_path / "predictions.csv")
    assert list(parts) == ["val"]
    assert parts["val"].paths == ("b.png",)
    (tmp_path / "predictions.csv").write_text("somebody's own table\n")
    write_predictions(tmp_path, [val])
    assert list(read_predictions(tmp_path / "predictions.csv")) == ["val"]


def test_intervals_are_drawn_once_and_read_back(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    said = part("val", tuple("abcdefgh"), [0, 1] * 4, generator.dirichlet([1, 1], 8))
    written = interval_record([said])
    assert list(written) == ["val/accuracy", "val/f1", "val/auroc"]
    drawn = read_intervals({}, said)
    monkeypatch.setattr("graft.results.intervals.interval", None)
    assert read_intervals(json.loads(json.dumps(written)), said) == drawn
    monkeypatch.undo()
    assert read_intervals({"val/accuracy": {"low": 0.1, "high": 0.2}}, said) == drawn
    assert read_intervals({name.replace("val", "test"): span for name, span in written.items()}, said) == drawn


@pytest.mark.parametrize("text", ["path,class\na.png,x\n", "part,path,label,target,prob_0\nval,a.png,x,zero,0.5\n"])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "predictions.csv").write_text(text)
    with pytest.raises(InputError, match="expected"):
        read_predictions(tmp_path / "predictions.csv")
