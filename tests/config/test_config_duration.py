import pytest

from graft.config.duration import parse_duration
from graft.config.faults import InputError


@pytest.mark.parametrize(
    ("written", "steps", "printed"),
    [
        ("2 epochs", 20, "2 epochs"),
        ("1 epoch", 10, "1 epoch"),
        ("2ep", 20, "2 epochs"),
        ("1.5 epochs", 15, "1.5 epochs"),
        ("500 steps", 500, "500 steps"),
        ("1 step", 1, "1 step"),
        ("10%", 20, "10%"),
        ("100%", 200, "100%"),
        ("0.1%", 1, "0.1%"),
        (3, 30, "3 epochs"),
        (3.0, 30, "3 epochs"),
        ("3", 30, "3 epochs"),
        (0.25, 50, "25%"),
        ("0.25", 50, "25%"),
        (0, 0, "0 epochs"),
        ("0 steps", 0, "0 steps"),
    ],
)
def test_a_duration_in_any_unit_becomes_steps(written, steps, printed):
    duration = parse_duration(written)
    assert duration.steps(steps_per_epoch=10, total_steps=200) == steps
    assert str(duration) == printed


@pytest.mark.parametrize(
    "written",
    [-1, "-1 epochs", "soon", "", "two epochs", "110%", "3 minutes", 1.5, None, True, [1], float("nan"), "1.5 steps"],
)
def test_what_is_no_duration_is_refused_with_the_forms(written):
    with pytest.raises(InputError, match=r'scheduler\.warmup: expected "2 epochs", "500 steps", "10%".*received'):
        parse_duration(written, "scheduler.warmup")


def test_a_bare_number_above_one_that_is_not_whole_is_ambiguous():
    with pytest.raises(InputError, match=r"try 1\.5 epochs in quotes"):
        parse_duration(1.5)
