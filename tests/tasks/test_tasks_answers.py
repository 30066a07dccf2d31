"""What is said of one file: which names, in which order, and each way of writing it."""

from __future__ import annotations

import pytest

from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.tasks.answers import FORMS

CLASSES = ("ant", "bee", "cicada")
VALUES = (0.125, 0.625, 0.25)


def test_the_likeliest_class_is_named() -> None:
    form = FORMS[TaskKind.single_label](CLASSES)
    answer = form.answer("a.png", VALUES)
    assert (answer.file, answer.top, answer.values, answer.error) == ("a.png", (("bee", 0.625),), VALUES, None)
    assert form.to_dict(answer) == {
        "class": "bee", "probability": 0.625, "top": [{"class": "bee", "probability": 0.625}],
        "probabilities": {"ant": 0.125, "bee": 0.625, "cicada": 0.25},
    }  # fmt: skip
    assert (form.header(), form.cells(answer)) == (["class", "probability"], ["bee", "0.625000"])
    assert (form.columns(), form.row(answer)) == ({"class": False, "probability": True}, ["bee", "0.6250"])


def test_more_classes_are_named_from_the_likeliest_down() -> None:
    form = FORMS[TaskKind.single_label](CLASSES, top=9)  # there are three
    answer = form.answer("a.png", VALUES)
    assert [name for name, _ in answer.top] == ["bee", "cicada", "ant"]
    assert form.header() == ["class", "probability", "class_2", "probability_2", "class_3", "probability_3"]
    assert form.cells(answer) == ["bee", "0.625000", "cicada", "0.250000", "ant", "0.125000"]
    assert form.columns() == {"class": False, "probability": True, "then": False}
    assert form.row(answer) == ["bee", "0.6250", "cicada 0.2500\nant 0.1250"]


@pytest.mark.parametrize(
    ("threshold", "labels"),
    [(None, ["bee"]), (0.2, ["bee", "cicada"]), (0.25, ["bee"]), (0.0, ["bee", "cicada", "ant"])],
)
def test_labels_above_the_threshold_are_named(threshold: float | None, labels: list[str]) -> None:
    form = FORMS[TaskKind.multi_label](CLASSES, threshold=threshold)
    answer = form.answer("a.png", VALUES)
    assert [name for name, _ in answer.top] == labels
    assert [each["label"] for each in form.to_dict(answer)["labels"]] == labels
    assert form.to_dict(answer)["probabilities"] == dict(zip(CLASSES, VALUES, strict=True))
    assert form.header() == ["labels", "probability_ant", "probability_bee", "probability_cicada"]
    assert form.cells(answer) == [";".join(labels), "0.125000", "0.625000", "0.250000"]
    assert form.columns() == {"labels": False, "probabilities": True}
    shares = [f"{VALUES[CLASSES.index(name)]:.4f}" for name in labels]
    assert form.row(answer) == ["\n".join(labels), "\n".join(shares)]


def test_where_no_label_is_named_the_likeliest_is_told() -> None:
    form = FORMS[TaskKind.multi_label](CLASSES, threshold=0.9)
    answer = form.answer("a.png", VALUES)
    assert answer.top == ()
    assert (form.cells(answer)[0], form.row(answer)) == ("", ["none", "bee 0.6250"])


def test_numbers_are_told_by_their_names() -> None:
    form = FORMS[TaskKind.regression](["width", "height"])
    answer = form.answer("a.png", (1234.56789, -0.000123456789))
    assert (answer.top, form.to_dict(answer)) == ((), {"values": {"width": 1234.56789, "height": -0.000123456789}})
    assert (form.header(), form.cells(answer)) == (["width", "height"], ["1234.56789", "-0.000123456789"])
    assert (form.columns(), form.row(answer)) == ({"width": True, "height": True}, ["1234.6", "-0.00012346"])


@pytest.mark.parametrize(
    ("kind", "choice", "said"),
    [
        (
            TaskKind.regression,
            {"top": 2},
            "--top: expected nothing for a model of data.task=regression, .* received 2;",
        ),
        (TaskKind.multi_label, {"top": 2}, "--top: expected nothing for a model of data.task=multi_label"),
        (TaskKind.single_label, {"threshold": 0.3}, "--threshold: expected nothing .*single_label, .* received 0.3;"),
        (TaskKind.regression, {"threshold": 0.0}, "--threshold: expected nothing"),
    ],
)
def test_a_choice_that_a_task_does_not_have_is_answered(kind: TaskKind, choice: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        FORMS[kind](CLASSES, **choice)
