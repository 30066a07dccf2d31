"""predictions.csv keeps its parts apart and comes back as it went."""

import pytest

from graft.config.faults import InputError
from graft.results.predictions import read_predictions, write_predictions


def test_round_trip_of_two_parts(tmp_path):
    write_predictions(tmp_path, "val", ["a.png", "b,c.png"], [1, 0], [[0.25, 0.75], [0.5, 0.5]], classes=["ok", "bad"])
    write_predictions(tmp_path, "test", ["é.png"], [0], [[1 / 3, 2 / 3]], classes=["ok", "bad"])
    parts = read_predictions(tmp_path / "predictions.csv")
    assert list(parts) == ["val", "test"]
    assert parts["val"].paths == ("a.png", "b,c.png")
    assert parts["val"].truth.tolist() == [1, 0]
    assert parts["test"].answers_NK.tolist() == [[0.333333, 0.666667]]
    header, first = (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()[:2]
    assert header == "part,path,label,target,prob_0,prob_1"
    assert first == "val,a.png,bad,1,0.25,0.75"


def test_a_part_written_again_replaces_itself(tmp_path):
    write_predictions(tmp_path, "val", ["a.png"], [0], [[0.9, 0.1]])
    write_predictions(tmp_path, "test", ["t.png"], [0], [[0.9, 0.1]])
    write_predictions(tmp_path, "val", ["b.png"], [1], [[0.2, 0.8]])
    parts = read_predictions(tmp_path / "predictions.csv")
    assert parts["val"].paths == ("b.png",)
    assert parts["test"].paths == ("t.png",)


@pytest.mark.parametrize("text", ["path,class\na.png,x\n", "part,path,label,target,prob_0\nval,a.png,x,zero,0.5\n"])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "predictions.csv").write_text(text)
    with pytest.raises(InputError, match="expected"):
        read_predictions(tmp_path / "predictions.csv")
