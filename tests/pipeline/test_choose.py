"""What a search tries next follows from its results, its budget and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import graft
from graft.commands import choose as command
from graft.commands.cli import dispatch
from graft.config.choices import DataKind
from graft.config.faults import InputError
from graft.config.schema_images import DataConfig
from graft.pipeline import choose_trials
from graft.pipeline.choose import Donor, Result, Search, Trial, next_trial, outlook
from graft.pipeline.choose_trials import Record, average_of, figures_of
from graft.pipeline.session import Run
from graft.results.predictions import Predictions, in_order_of, write_predictions
from tests.pipeline.coloured import BACKBONE, write_images_and_donor

DONORS = (
    Donor(backbone="b", image_size=224, score=0.8, seconds=5),
    Donor(backbone="a", image_size=192, score=0.7, seconds=4),
    Donor(backbone="c", image_size=160, score=0.6, seconds=3),
)
EPOCHS = 12


def search(budget: float) -> Search:
    return Search(budget=budget, probing=12, donors=DONORS, epochs=EPOCHS)


def end(trial: Trial, brier: float | None = None, failure: str = "") -> Result:
    """An epoch takes ten seconds at 224 pixels; TrivialAugment and more epochs are better."""
    worth = 0.3 - 0.005 * trial.epochs - 0.02 * (trial.augment == "trivial") - 0.01 * (trial.backbone == "b")
    seconds = trial.epochs * 10 * (trial.image_size / 224) ** 2 or 8
    return Result(trial=trial, folder="", seconds=seconds, brier=worth if brier is None else brier, failure=failure)


def carried_out(state: Search, finish: Callable[[Trial], Result] = end) -> Iterator[Search]:
    while (trial := next_trial(state)) is not None:
        assert not state.has(trial)
        state = replace(state, results=(*state.results, finish(trial)))
        yield state


def last(state: Search, finish: Callable[[Trial], Result] = end) -> Search:
    return [state, *carried_out(state, finish)][-1]


def test_solved_heads_come_first_then_short_trials_then_long_ones_of_the_best() -> None:
    trials = [each.trial for each in last(search(1000)).results]
    assert [(each.kind, each.backbone) for each in trials[:2]] == [("head", "b"), ("head", "a")]
    short = [each for each in trials if each.epochs == 3]
    assert trials[2 : 2 + len(short)] == short
    assert {(each.backbone, each.augment) for each in short} == {
        (backbone, augment) for backbone in "ab" for augment in ("crops", "trivial", "none")
    }
    whole = trials[2 + len(short) :][:2]
    assert [(each.backbone, each.augment, each.epochs) for each in whole] == [
        ("b", "trivial", 12),
        ("a", "trivial", 12),
    ]


@pytest.mark.parametrize("budget", [60, 150, 400, 1000, 3000])
def test_a_budget_is_kept(budget: float) -> None:
    state = last(search(budget))
    assert state.left >= 0
    assert any(each.trial.kind == "tuned" for each in state.results) == (budget > 60)


def test_a_head_is_solved_however_little_time_there_is() -> None:
    assert [each.trial.kind for each in last(search(13)).results] == ["head"]
    assert next_trial(search(12)) is None


def test_the_best_arm_gets_the_epochs_that_fit() -> None:
    state = last(search(250))
    assert [(each.trial.augment, each.trial.epochs) for each in state.results[2:]] == [
        ("crops", 3),
        ("trivial", 3),
        ("trivial", 12),
    ]
    assert [each.trial.epochs for each in last(search(200)).results[2:]] == [3, 3, 11]
    assert [each.trial.epochs for each in last(search(130)).results[2:]] == [3, 7]


def test_the_best_is_changed_in_one_respect_while_there_is_time() -> None:
    best = last(search(100_000)).ranked()[0].trial
    assert (best.backbone, best.augment, best.epochs) == ("b", "trivial", 48)
    sizes = {each.trial.image_size for each in last(search(100_000)).results if each.trial.backbone == "b"}
    assert sizes == {224, 288}
    fixed = last(replace(search(100_000), enlarges=False))
    assert {each.trial.image_size for each in fixed.results} == {donor.image_size for donor in DONORS}


def test_a_larger_budget_goes_on_from_a_smaller_one() -> None:
    first = last(search(400))
    second = last(replace(first, budget=1000))
    assert second.results[: len(first.results)] == first.results
    assert len(second.results) > len(first.results)


def test_a_failed_trial_is_not_repeated_and_never_best() -> None:
    def finish(trial: Trial) -> Result:
        return end(trial, failure="out of memory", brier=0.0) if trial.backbone == "b" else end(trial)

    state = last(search(1000), finish)
    assert state.ranked()[0].trial.backbone == "a"
    assert sum(each.trial.backbone == "b" for each in state.results) == 4  # one head, three short trials


def test_time_that_was_measured_is_believed_rather_than_the_pass() -> None:
    trial = Trial(kind="tuned", backbone="b", image_size=224, augment="crops", epochs=3)
    assert search(1000).epoch_seconds(trial) == 20
    timed = replace(search(1000), results=(replace(end(trial), seconds=90),))
    assert timed.epoch_seconds(trial) == 30
    assert timed.epoch_seconds(replace(trial, image_size=448)) == 120


def test_the_outlook_is_the_gain_of_longer_training() -> None:
    assert "nothing says" in outlook(search(1000))
    trial = Trial(kind="tuned", backbone="b", image_size=224, augment="crops", epochs=3)
    pair = (end(trial, brier=0.3), end(replace(trial, epochs=12), brier=0.25))
    assert "by -0.050 on average (1 pairs" in outlook(replace(search(1000), results=pair))
    assert "more time may still help" in outlook(replace(search(1000), results=pair))
    worse = (pair[0], end(replace(trial, epochs=12), brier=0.31))
    assert "more time will probably bring little" in outlook(replace(search(1000), results=worse))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("coloured")
    write_images_and_donor(place, images=30, brighter=40)
    return place


def words(place: Path, *more: str) -> list[str]:
    return [
        "choose", str(place / "images"), f"backbone.name={BACKBONE}", "donor=file", f"donor.path={place / 'donor.pth'}",
        "data.image_size=32", "data.num_workers=0", "trainer.accelerator=cpu", "trainer.progress=false",
        "augment=none", f"cache.dir={place / 'cache'}", "--backbone", "timm", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_a_search_writes_runs_and_goes_on_where_it_was(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "search"

    def first_two(state: Search) -> Trial | None:
        return next_trial(state) if len(state.results) < 2 else None

    with monkeypatch.context() as patch:
        patch.setattr(choose_trials, "next_trial", first_two)
        assert dispatch(words(place, "--budget", "10m", "--out", str(out))) == 0
    lines = capsys.readouterr().out
    assert "01  timm, 32 pixels, head=auto" in lines
    assert "02  timm, 32 pixels, 8 epochs, augment=as given" in lines
    assert dispatch(words(place, "--budget", "1s", "--out", str(out), "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["folder"] for each in found["trials"]] in (["trials/01", "trials/02"], ["trials/02", "trials/01"])
    best = found["trials"][0]
    assert best["brier"] == min(each["brier"] for each in found["trials"])
    run = Run(out / best["folder"])
    assert run.metrics["val/accuracy"] == pytest.approx(best["accuracy"])
    assert f"chosen: {out / best['folder']}" in lines
    answers, classes = run.predictions["val"].answers_NK, run.predictions["val"].truth
    expected = sum(
        (answers[row, k] - (k == classes[row])) ** 2 for row in range(len(classes)) for k in range(answers.shape[1])
    )
    assert figures_of(run) == pytest.approx((expected / len(classes), best["accuracy"]))
    average = found["average"]
    assert average["folders"][0] == str(out / best["folder"])
    if len(average["folders"]) == 2:
        other = Run(out / "trials" / ({"01", "02"} - {Path(best["folder"]).name}).pop())
        mean_NK = (answers + in_order_of(run.predictions["val"], other.predictions["val"]).answers_NK) / 2
        assert average["accuracy"] == pytest.approx((mean_NK.argmax(1) == classes).mean())
        assert f"graft export {out}" in lines
    assert average["test"][0] == pytest.approx(run.metrics["test/accuracy"])
    assert f"test accuracy: {average['test'][0]:.4f} chosen" in lines
    tuned = json.loads((out / "trials" / "02" / "metrics.json").read_text())
    assert tuned["epochs"] == 8
    assert graft.load(out / "trials" / "02").classes == ("blue", "green", "red")
    with pytest.raises(InputError, match=r"expected a search of .* received one of .* try another --out"):
        dispatch(words(place, "--budget", "1s", "--out", str(out), "seed=4"))


def test_a_trial_keeps_its_folder_when_it_is_interrupted(tmp_path: Path) -> None:
    first, second = (Trial(kind="head", backbone=name, image_size=32) for name in "ab")
    record = Record(tmp_path, ["data.root=photos"])
    assert [record.folder_of(trial).name for trial in (first, second, first)] == ["01", "02", "01"]
    again = Record(tmp_path, ["data.root=photos"])
    assert again.folder_of(second) == tmp_path / "trials" / "02"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["photos", "pictures"], "DATA: expected one folder or CSV file, received photos, pictures"),
        (["photos", "backbone=resnet50"], "backbone: .*--backbone names backbones"),
        (["photos", "trainer.max_epochs=3"], "trainer.max_epochs: expected a key that graft choose leaves to you"),
    ],
)
def test_what_a_search_decides_is_not_given(given: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        command.words_of_trials(given)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400)])
def test_budgets_have_units(text: str, seconds: float) -> None:
    assert command.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["20", "0m", "m", "1d", "-5m"])
def test_other_budgets_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        dispatch(["choose", "photos", f"--budget={text}"])
    assert refused.value.code == 2
    assert "expected a time such as 90s, 20m or 1h" in capsys.readouterr().err


def test_damaged_records_are_refused(tmp_path: Path) -> None:
    (tmp_path / "choose.json").write_text('{"words": [], "donors": [{"backbone": 1}]}')
    with pytest.raises(InputError, match=r"choose\.json: expected the record of a search"):
        Record(tmp_path, [])


def test_trials_are_averaged_that_differ_from_the_best_by_chance(tmp_path: Path) -> None:
    seeded = np.random.default_rng(0)
    truth = seeded.integers(2, size=200)

    def write(name: str, right: float, noise: float) -> Result:
        sure_N = np.clip(right + noise * seeded.standard_normal(200), 0.01, 0.99)
        answers_NK = np.where(np.arange(2) == truth[:, None], sure_N[:, None], 1 - sure_N[:, None])
        paths = tuple(f"{number}.png" for number in range(200))
        parts = [Predictions(part=part, paths=paths, truth=truth, answers_NK=answers_NK) for part in ("val", "test")]
        write_predictions(tmp_path / name, parts)
        brier = figures_of(Run(tmp_path / name))[0]
        return Result(trial=Trial(kind="head", backbone=name, image_size=32), folder=name, brier=brier)

    for name in ("best", "alike", "worse"):
        (tmp_path / name).mkdir()
    results = (write("worse", 0.6, 0.3), write("best", 0.75, 0.3), write("alike", 0.74, 0.3))
    average = average_of(replace(search(100), results=results), tmp_path)
    assert {folder.name for folder in average.folders} == {"best", "alike"}
    assert average.brier < min(result.brier for result in results)
    assert average.test is not None
    assert average.test[1] == pytest.approx(average.accuracy)


def test_a_stopped_search_says_how_it_goes_on(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(choose_trials, "probe", stopped)
    assert dispatch(words(place, "--out", str(tmp_path / "search"))) == 130
    assert "graft choose: stopped; the same command continues the search in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("root", "name"), [("a/photos", "photos"), ("a/photos/", "photos"), ("clothing/split.csv", "clothing-split")]
)
def test_a_search_is_named_after_its_images(root: str, name: str) -> None:
    assert command.name_of(DataConfig(kind=DataKind.folder, root=root)) == name
    assert command.name_of(DataConfig(kind=DataKind.solar_cells)) == "solar_cells"
