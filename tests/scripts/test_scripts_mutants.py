"""Which tests a change of the sources is tried on."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

FILE = "src/graft/x.py"
LINES = {
    1: [""],  # an import alone
    2: ["", "setup of tests/test_b.py"],
    3: ["tests/test_a.py::test_slow", "tests/test_a.py::test_quick"],
    4: ["tests/test_a.py::test_failing"],
}


@pytest.fixture
def reach(root: Path) -> Any:
    made = runpy.run_path(str(root / "scripts" / "mutation_tests.py"))["Reach"]()
    seconds = {"tests/test_a.py::test_slow": 3.0, "tests/test_a.py::test_quick": 1.0, "tests/test_b.py::test_it": 2.0}
    made.add({"lines": {FILE: {str(line): tests for line, tests in LINES.items()}}, "seconds": seconds})
    return made


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((3, 3), ["tests/test_a.py::test_quick", "tests/test_a.py::test_slow"]),  # the quickest first
        ((2, 2), ["tests/test_b.py::test_it"]),  # all that a fixture is set up for
        ((1, 1), ["tests/test_a.py::test_quick", "tests/test_b.py::test_it", "tests/test_a.py::test_slow"]),
        # Where only a test that fails as it is goes over a line, those that go over the rest of the file.
        ((4, 4), ["tests/test_a.py::test_quick", "tests/test_b.py::test_it", "tests/test_a.py::test_slow"]),
        ((5, 9), []),
        (None, ["tests/test_a.py::test_quick", "tests/test_b.py::test_it", "tests/test_a.py::test_slow"]),
    ],
)
def test_a_change_is_tried_on_the_tests_that_go_over_its_statement(reach, lines, expected) -> None:
    assert reach.tests_of(FILE, lines) == expected


def test_tests_are_taken_while_there_is_time_and_one_in_any_case(reach) -> None:
    tests = reach.tests_of(FILE, (3, 3))
    assert reach.within(tests, 3.9) == tests[:1]
    assert reach.within(tests, 4.0) == tests
    assert reach.within(tests, 0.1) == tests[:1]
    assert reach.within([], 1.0) == []


SOURCE = """\
LIMIT = 3


class Box:
    size: int = 4

    def grow(self, by: int = 5) -> int:
        if by:
            return 6
        return by
"""


def test_what_an_import_runs_counts_for_the_whole_file_and_a_default_for_its_function(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.py").write_text(SOURCE)
    mutants = runpy.run_path(str(root / "scripts" / "mutation_points.py"))["mutants_of"](tmp_path, "x.py")
    lines = {mutant.module.code_for_node(mutant.old): mutant.lines for mutant in mutants}
    assert {number: lines[number] for number in "3456"} == {"3": None, "4": None, "5": (7, 10), "6": (9, 9)}
