"""Labels of each task as such: how they are read, ordered, told, counted, summed up and judged."""

from __future__ import annotations

from typing import Any

import pytest

from graft.config.choices import TaskKind
from graft.config.faults import Fault
from graft.config.schema_images import DataConfig
from graft.tasks.labels import LABELS, LINE, counts

ONE, SEVERAL, NUMBERS = (LABELS[kind] for kind in (TaskKind.single_label, TaskKind.multi_label, TaskKind.regression))
FEW = "a smaller data.val_fraction or data.test_fraction, or more images"


def rows(*cells: str, column: str = "label") -> list[Any]:
    return [{column: cell, LINE: line} for line, cell in enumerate(cells, start=2)]


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (("b", "a", "b"), ("a", "b")),
        (("10", "9", "-1"), ("-1", "9", "10")),
        (("10", "9", "x"), ("10", "9", "x")),
        (("01", "1", "2"), ("01", "1", "2")),
        (("\u0661", "2"), ("2", "\u0661")),  # an Arabic one is no number that int would spell so
        (("1.5", "10"), ("1.5", "10")),
    ],
)
def test_classes_are_in_the_order_of_their_numbers_or_letters(cells: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert ONE.read(rows(*cells), DataConfig()) == (names, [names.index(cell) for cell in cells], [])


def test_labels_of_a_cell_are_apart_by_the_separator_and_stripped() -> None:
    read = SEVERAL.read(rows("b; a", "", " a ;;"), DataConfig())
    assert read == (("a", "b"), [(1.0, 1.0), (0.0, 0.0), (1.0, 0.0)], [])
    assert SEVERAL.read([], DataConfig()) == ((), [], [])
    nothing = Fault(key="data.root", expected="a label for some image", received="an empty column label")
    assert SEVERAL.read(rows("", " "), DataConfig()) == ((), [(), ()], [nothing])
    other = Fault(
        key="data.separator", expected="what stands between two names", remedy="'data.separator=\"|\"'",
        received="';', which is in no cell, and line 3 with b|c",
    )  # fmt: skip
    assert SEVERAL.read(rows("a", "b|c", "d|e"), DataConfig())[2] == [other]
    assert SEVERAL.read(rows("a;x", "b|c"), DataConfig())[2] == []


def test_what_is_no_number_is_listed_with_its_line_and_counted() -> None:
    assert NUMBERS.columns(DataConfig()) == ("label",)
    assert NUMBERS.columns(DataConfig(columns=["x", "y"])) == ("x", "y")
    assert NUMBERS.read(rows("1", "-2e3"), DataConfig()) == (("label",), [(1.0,), (-2000.0,)], [])
    cells = ["1", "two", "inf", "nan", "", "five", "6", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    (_, _, [fault]) = NUMBERS.read(rows(*cells), DataConfig())
    assert (fault.key, fault.expected) == ("data.root", "finite numbers in label with data.task=regression")
    told = [f"line {line} with label {cells[line - 2]}" for line in (3, 4, 5, 6, 7, 9, 10, 11, 12, 13)]
    assert fault.received == f"{', '.join(told)} and 1 more"
    (_, _, [exactly_ten]) = NUMBERS.read(rows(*cells[:-1]), DataConfig())
    assert exactly_ten.received == ", ".join(told)


def test_what_a_label_shows_and_how_it_is_told() -> None:
    names = ("ant", "bee", "cicada")
    assert (ONE.shows(1), SEVERAL.shows((0.0, 0.5, 1.0)), NUMBERS.shows((1.0, 2.0, 3.0))) == ((1,), (1, 2), ())
    assert ONE.stratum(2) == 2
    assert NUMBERS.words((1.5, -2.0, 1e6), names) == "ant 1.5, bee -2, cicada 1e+06"
    assert counts([(0, 2), (2,), ()], 3) == (1, 0, 2)


def test_a_class_without_an_image_to_train_on_is_a_fault() -> None:
    lacking = Fault(
        key="data.root", expected="an image of every class to train on", received="none of a, c", remedy=FEW
    )
    assert ONE.check({"train": [1, 1], "val": [0, 2]}, ("a", "b", "c"), "data.root") == [lacking]
    assert ONE.check({"train": [1, 0], "val": []}, ("a", "b"), "data.root") == []
    several = {"train": [(0.0, 1.0, 0.0)], "val": [(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)], "test": []}
    found = SEVERAL.check(several, ("a", "b", "c"), "data.root")
    assert found == [
        lacking, Fault(key="data.root", expected="labels that differ in train", received="b for each image"),
    ]  # fmt: skip
    alike = {"train": [(1.0, 2.0), (1.0, 3.0)], "val": [(1.0, 5.0)], "test": []}
    assert NUMBERS.check(alike, ("x", "y"), "k") == [
        Fault(key="k", expected="values of x that differ in train", received="1 for each image"),
        Fault(key="k", expected="values of x that differ in val", received="1 for each image"),
        Fault(key="k", expected="values of y that differ in val", received="5 for each image"),
    ]
    none = Fault(key="k", expected="images to train on", received="none")
    assert NUMBERS.check({"train": [], "val": [(1.0,), (2.0,)]}, ("x",), "k") == [none]


def test_a_summary_counts_images_and_tells_how_numbers_spread() -> None:
    parts = {"train": [(1.0, 2.0), (3.0, 2.0)], "val": []}
    assert NUMBERS.summary(parts, ("x", "y")) == {
        "images": {"train": 2, "val": 0},
        "values": {
            "train": {
                "x": {"mean": 2.0, "std": 1.0, "lowest": 1.0, "highest": 3.0},
                "y": {"mean": 2.0, "std": 0.0, "lowest": 2.0, "highest": 2.0},
            }
        },
    }
    assert SEVERAL.summary({"train": [(1.0, 1.0), (0.0, 1.0)], "val": []}, ("x", "y")) == {
        "parts": {"train": {"x": 1, "y": 2}, "val": {"x": 0, "y": 0}}, "images": {"train": 2, "val": 0},
    }  # fmt: skip
