"""What the results make of several labels and of numbers: predictions, pages, answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.report import write_comparison, write_report
from graft.report.helped import sentence
from graft.report.mistakes import MISTAKES
from graft.report.record import read_run
from graft.results.card import PURPOSES, model_card
from graft.results.predictions import Predictions, in_order_of, read_predictions, write_predictions
from graft.system.files import write_json
from graft.tasks.answers import FORMS
from tests.report.test_results_report import Page
from tests.run_folder import write_run

SEVERAL, NUMBERS = TaskKind.multi_label, TaskKind.regression
RNG = np.random.default_rng(0)


def made(task: TaskKind, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Truth and answers of 40 images that are so far off."""
    generator = np.random.default_rng(1)
    if task is NUMBERS:
        truth = 50 + 10 * generator.normal(size=(40, 2))
        return truth, truth + gap * generator.normal(size=(40, 2))
    truth = (generator.random((40, 2)) < 0.4).astype(float)
    return truth, np.clip(0.2 + 0.6 * truth + gap * generator.normal(size=(40, 2)), 0, 1)


def a_run(folder: Path, task: TaskKind, gap: float, names: tuple[str, ...] = ("left", "right")) -> Path:
    write_run(folder, classes=names, images=40, settings={"checkpoint": {"monitor": "val/loss", "direction": "min"}})
    truth, said = made(task, gap)
    paths = tuple(str(folder / f"{k}.{'png' if k % 2 else 'jpg'}") for k in range(40))
    parts = [Predictions(part=part, paths=paths, truth=truth, answers_NK=said, task=task) for part in ("val", "test")]
    write_predictions(folder, parts, classes=names)
    counted = {"parts": {"train": dict.fromkeys(names, 7)}, "images": {"train": 40}}
    spread = {"mean": 50.0, "std": 10.0, "lowest": 20.0, "highest": 80.0}
    numbers = {"images": {"train": 40}, "values": {"train": dict.fromkeys(names, spread)}}
    plan = {
        "backbone": "r",
        "methods": ["LoRA of rank 8", "mixup"],
        "classes": list(names),
        "task": {"kind": task.value},
        "stages": [{"name": "head"}],
        "data": {"kind": "csv", **(numbers if task is NUMBERS else counted)},
    }
    write_json(folder / "plan.json", plan)
    figures = {"test/map": 0.5, "val/map": 0.5, "test/mae": 2.5, "val/mae": 2.5, "val/loss": gap, "test/loss": gap}
    write_json(folder / "metrics.json", figures)
    return folder


@pytest.mark.parametrize("task", [SEVERAL, NUMBERS])
def test_predictions_come_back_as_written(tmp_path: Path, task: TaskKind):
    truth, said = made(task, 0.3)
    paths = tuple(f"{k}.png" for k in range(40))
    parts = [Predictions(part=part, paths=paths, truth=truth, answers_NK=said, task=task) for part in ("val", "test")]
    write_predictions(tmp_path, parts, classes=("a, b", "c"))
    found = read_predictions(tmp_path / "predictions.csv")
    assert list(found) == ["val", "test"]
    assert found["val"].task is task
    np.testing.assert_allclose(found["val"].truth, truth, rtol=1e-8)
    np.testing.assert_allclose(found["val"].answers_NK, said, rtol=1e-5)
    assert in_order_of(found["val"], found["test"]) is not None
    header = (tmp_path / "predictions.csv").read_text().splitlines()[0]
    assert (
        header
        == {
            SEVERAL: "part,path,label,true_0,true_1,prob_0,prob_1",
            NUMBERS: 'part,path,"true_a, b",true_c,"predicted_a, b",predicted_c',
        }[task]
    )


def test_other_columns_are_refused(tmp_path: Path):
    (tmp_path / "predictions.csv").write_text("part,path,label\nval,a,b\n")
    with pytest.raises(InputError, match=r"expected the columns part, path, label, target, prob_0 or .* received part"):
        read_predictions(tmp_path / "predictions.csv")


@pytest.mark.parametrize(
    ("task", "shown", "absent"),
    [
        (SEVERAL, ("Per label", "test mAP", "test micro-F1", "wrongly predicted", "average precision"),
         ("Confusion", "ECE")),
        (NUMBERS, ("Predicted over true: left", "Residuals: right", "Largest errors", "test MAE", "R²", "left, train"),
         ("Confusion", "ECE", "Right and wrong")),
    ],
)  # fmt: skip
def test_the_report_shows_what_a_task_has(tmp_path: Path, task, shown, absent):
    run = a_run(tmp_path / "run", task, 0.3)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    for words in (*shown, "Methods: LoRA of rank 8; mixup."):
        assert words in page.said, words
    for words in absent:
        assert words not in page.said, words


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (SEVERAL, r"Transfer helped by [\d.]+ points of test mAP \(95 % interval \+"),
        (NUMBERS, r"Transfer helped by [\d.]+ of test MAE \(95 % interval -[\d.]+ to -[\d.]+\): 2\.500 with random"),
    ],
)
def test_runs_are_compared_by_their_tasks_figures(tmp_path: Path, task, told):
    import re

    good, bad = a_run(tmp_path / "good", task, 0.1), a_run(tmp_path / "bad", task, 2.0)
    control = a_run(good / "controls" / "random_init", task, 2.0)
    lines = (control / "predictions.csv").read_text().replace(str(control), str(good))
    (control / "predictions.csv").write_text(lines)
    record = read_run(good)
    assert re.match(told, sentence(record, record.controls["random_init"], "random_init"))
    page = Page(write_comparison([good, bad]).read_text(encoding="utf-8"))
    assert ("test mAP" if task is SEVERAL else "test RMSE") in page.said


def test_the_worst_images():
    truth, said = made(SEVERAL, 0.0)
    said[7] = 1 - truth[7]
    truth[3], said[3] = [1, 0], [0.4, 0.1]
    several = predictions(SEVERAL, truth, said)
    assert MISTAKES[SEVERAL].worst(several)[0] == 7
    assert set(MISTAKES[SEVERAL].worst(several)) == {3, 7}
    words = MISTAKES[SEVERAL].words(several, 3, ("left", "right"))
    assert words.sentence == "labelled left, predicted nothing"
    truth, said = made(NUMBERS, 0.0)
    said[5, 1] += 30
    numbers = predictions(NUMBERS, truth, said)
    assert MISTAKES[NUMBERS].worst(numbers)[0] == 5


def predictions(task, truth, said):
    from graft.results.predictions import Predictions

    return Predictions(part="val", paths=tuple(map(str, range(40))), truth=truth, answers_NK=said, task=task)


def test_answers_of_several_labels():
    form = FORMS[SEVERAL](["ant", "bee", "cicada"], threshold=0.3)
    answer = form.answer("x.png", [0.9, 0.2, 0.4])
    assert answer.top == (("ant", 0.9), ("cicada", 0.4))
    assert form.to_dict(answer)["labels"] == [
        {"label": "ant", "probability": 0.9},
        {"label": "cicada", "probability": 0.4},
    ]
    assert form.cells(answer) == ["ant;cicada", "0.900000", "0.200000", "0.400000"]
    assert form.row(form.answer("x.png", [0.1, 0.2, 0.0])) == ["none", "bee 0.2000"]
    with pytest.raises(InputError, match=r"--top: expected nothing for a model of data\.task=multi_label"):
        FORMS[SEVERAL](["ant"], top=2)


def test_answers_in_numbers():
    form = FORMS[NUMBERS](["age", "size"])
    answer = form.answer("x.png", [1234.5678, -0.5])
    assert form.to_dict(answer) == {"values": {"age": 1234.5678, "size": -0.5}}
    assert (form.header(), form.cells(answer)) == (["age", "size"], ["1234.5678", "-0.5"])
    with pytest.raises(InputError, match="--threshold"):
        FORMS[NUMBERS](["age"], threshold=0.2)


@pytest.mark.parametrize("task", list(TaskKind))
def test_the_card_says_what_the_outputs_mean(task: TaskKind):
    record = {
        "made_by": "graft", "weights": {"file": "model.safetensors"}, "build": {"library": "timm", "name": "n"},
        "head": {"kind": "linear"}, "classes": ["a", "b"], "task": {"kind": task.value},
        "preprocess": {"image_size": 8, "channels": 1, "crop_fraction": 1, "interpolation": "bicubic", "mean": [0],
                       "std": [1]},
    }  # fmt: skip
    if task is NUMBERS:
        record["task"] |= {"mean": [1.5, 2], "std": [0.25, 4]}
    card = model_card(record)
    assert PURPOSES[task].answers in card
    assert ("pipeline_tag: image-classification" in card) is (task is not NUMBERS)
    assert ("| a | 0.25 | 1.5 |" in card) is (task is NUMBERS)
