"""Drift by hand."""

import json

import pytest
import torch

from graft.results.drift import drift, write_drift

BEFORE = {
    "stem.weight": torch.tensor([3.0, 4.0]),
    "body.a": torch.tensor([1.0, 0.0]),
    "body.b": torch.tensor([0.0, 2.0]),
    "body.steps": torch.tensor(3),
    "head.bias": torch.tensor([0.0, 0.0]),
    "gone": torch.tensor([1.0]),
}
AFTER = {
    "stem.weight": torch.tensor([3.0, 4.0]),
    "body.a": torch.tensor([1.0, 0.5]),
    "body.b": torch.tensor([0.0, 0.0]),
    "body.steps": torch.tensor(9),
    "head.bias": torch.tensor([0.3, 0.4]),
}


def test_stages_moved_by_this_much():
    rows = {row.stage: row for row in drift(BEFORE, AFTER, lambda name: name.split(".", maxsplit=1)[0])}
    assert list(rows) == ["stem", "body", "head"]
    assert (rows["stem"].change, rows["stem"].moved) == (0.0, 0)
    assert rows["body"].change == pytest.approx((4.25 / 5) ** 0.5)
    assert (rows["body"].largest, rows["body"].largest_change) == ("body.b", pytest.approx(1.0))
    assert (rows["body"].tensors, rows["body"].moved) == (2, 2)
    assert rows["head"].change == pytest.approx(0.5)  # began at zero: its absolute change


def test_what_is_in_the_same_place_has_not_moved():
    copies = {name: tensor.clone() for name, tensor in BEFORE.items()}
    here, there = (drift(BEFORE, after, lambda name: name) for after in (BEFORE, copies))
    assert here == there
    assert [row.moved for row in here] == [0] * 5
    square = torch.tensor([[0.0, 3.0], [4.0, 0.0]])
    assert drift({"w": square}, {"w": square.T}, str)[0].change == pytest.approx(2**0.5 / 5)


def test_drift_json(tmp_path):
    write_drift(tmp_path, drift(BEFORE, AFTER, lambda name: "all"))
    told = json.loads((tmp_path / "drift.json").read_text())
    assert told["since"] == "donor"
    assert told["stages"][0]["stage"] == "all"
