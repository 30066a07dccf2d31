"""Tables as text: columns as wide as their widest cell."""

from __future__ import annotations

from graft.page.terminal import aligned


def test_columns_stand_to_the_left_unless_they_are_numbers() -> None:
    rows = [("trial", "state", ""), ("7", "complete", "loss 0.5"), ("12", "failed", "")]
    assert aligned(rows, right=[0]) == ["trial  state", "    7  complete  loss 0.5", "   12  failed"]


def test_cells_of_any_width_line_up() -> None:
    assert aligned([("a", "1"), ("bbb", "22")], right=range(1, 2)) == ["a     1", "bbb  22"]
    assert aligned([("one", "two")]) == ["one  two"]
