"""The best trial, as a command and as an experiment; the page of a study."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from graft.commands.best import choose, command, experiment, run
from graft.config.compose import parse, register
from graft.config.faults import InputError
from graft.sweep.page import lay_out_study
from graft.sweep.record import Objective, StudyRecord, TrialRecord
from graft.sweep.study import failures, importances, summary

CONF = Path(__file__).resolve().parents[2] / "conf"
ACCURACY, SIZE = Objective(metric="val/accuracy", direction="max"), Objective(metric="parameters", direction="min")


def trial(number: int, *values: float, state: str = "complete", reason: str = "", **choices: str) -> TrialRecord:
    overrides = tuple(f"{key}={value}" for key, value in choices.items())
    return TrialRecord(
        number=number, state=state, choices=choices, overrides=overrides, folder=Path(str(number)), values=values,
        reason=reason, began=60.0 * number, ended=60.0 * number + 45, attempts=1,
    )  # fmt: skip


def study(*trials: TrialRecord, objectives: tuple[Objective, ...] = (ACCURACY,), **more: object) -> StudyRecord:
    shares: dict[str, float] = {"lr": 0.75, "freeze": 0.25} if more else {}
    words = ("python", "train.py", "-m", "freeze=a,b")
    return StudyRecord(folder=Path("sweep"), command=words, objectives=objectives, trials=trials, importances=shares)


def test_the_best_is_the_earliest_of_equals_or_all_that_none_dominates() -> None:
    one = study(trial(0, 0.5), trial(1, 0.9), trial(2, 0.9), trial(3, state="failed", reason="x"))
    assert [each.number for each in one.best] == [1]
    early = study(trial(0, 0.5), trial(1, 0.9, state="pruned"), trial(2, 0.8, state="running"))
    assert [each.number for each in early.best] == [0]
    points = [(0.9, 100.0), (0.8, 50.0), (0.7, 60.0), (0.9, 120.0), (0.95, 500.0)]
    several = study(*(trial(n, *point) for n, point in enumerate(points)), objectives=(ACCURACY, SIZE))
    assert [each.number for each in several.best] == [0, 1, 4]
    assert choose(several, None).number == 0
    nan, infinite = float("nan"), float("inf")
    assert [each.number for each in study(trial(0, nan), trial(1, infinite), trial(2, 0.1)).best] == [2]
    assert study(trial(0, nan)).best == ()
    unknown = study(trial(0, nan, 1.0), trial(1, 0.5, 2.0), trial(2, 0.4, nan), objectives=(ACCURACY, SIZE))
    assert [each.number for each in unknown.best] == [1]
    assert choose(several, 2).number == 2
    with pytest.raises(InputError, match=r"--trial: expected a complete trial \(0, 1, 2\), received 3"):
        choose(one, 3)
    with pytest.raises(InputError, match="expected a complete trial, received none"):
        choose(study(), None)


@pytest.fixture
def hydra_here() -> Iterator[None]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def test_the_experiment_is_the_same_run_as_the_command(hydra_here: None, tmp_path: Path) -> None:
    overrides = (
        *("backbone=resnet18", "+experiment=null", "freeze='layer1-2'", "optimizer.lr=0.00031", "seed=3"),
        *("optimizer.lr_scale={head: 2.0}", "donor.rename=[['^a','b']]", "augment=light"),
    )
    overrides = tuple(word for word in overrides if "experiment" not in word)
    best = TrialRecord(number=4, state="complete", choices={}, overrides=overrides, folder=Path("4"), values=(0.9,))
    text = experiment(study(best), best, "found")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "found.yaml").write_text(text)
    again = compose("config", [f"hydra.searchpath=[file://{tmp_path}]", "experiment=found"])
    assert parse(again) == parse(compose("config", list(overrides)))
    assert text.splitlines()[:4] == [
        "# @package _global_",
        "# Trial 4 of 1 of the sweep python train.py -m freeze=a,b",
        "#   python train.py experiment=found",
        "# val/accuracy 0.9",
    ]
    assert command(study(best), best).startswith("python train.py backbone=resnet18 'freeze='\"'\"'layer1-2")


def test_the_folder_of_configs_that_the_sweep_was_given_stays_in_its_command() -> None:
    best = trial(0, 0.9, seed="3")
    words = ("python", "train.py", "--config-dir", "my conf", "-m", "seed=1,2")
    found = replace(study(best), command=words)
    assert command(found, best) == "python train.py --config-dir 'my conf' seed=3"
    assert "#   python train.py --config-dir 'my conf' experiment=found\n" in experiment(found, best, "found")


def test_the_best_is_found_outside_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment of one's own name lies where the sweep's configs do, which must be there."""
    best = trial(0, 0.9, seed="3")
    mine = tmp_path / "mine"
    found = replace(study(best), folder=tmp_path, command=("python", "train.py", "--config-dir", str(mine), "-m"))
    monkeypatch.setattr("graft.sweep.study.read_study", lambda folder: found)
    monkeypatch.chdir(tmp_path)
    asked = argparse.Namespace(sweep=str(tmp_path), trial=None, experiment=None)
    assert run(asked) == 0
    assert "seed: 3" in (tmp_path / "best.yaml").read_text()
    asked.experiment = "found"
    with pytest.raises(InputError, match=r"--experiment: expected the folder .*mine in .*, received none"):
        run(asked)
    mine.mkdir()
    assert run(asked) == 0
    assert "seed: 3" in (mine / "experiment" / "found.yaml").read_text()


def test_the_summary_tables_what_failed() -> None:
    told = study(trial(0, 0.5, freeze="a"), trial(1, state="failed", reason="no memory\nsecond line", freeze="b"))
    assert failures(told).splitlines()[:4] == [
        "1 of 2 trials failed:",
        "  trial  overrides  reason",
        "      1  freeze=b   no memory",
        "                    second line",
    ]
    assert "2 trials: 1 complete, 1 failed\nbest      trial 0 (val/accuracy 0.5): freeze=a" in summary(told)
    assert failures(study(trial(0, 0.5))) == ""


def test_what_matters_is_found_to_matter() -> None:
    trials = [trial(n, 1.0 - (n % 8) / 8, x=str(n % 8), y=str(n // 8)) for n in range(32)]
    shares = importances(trials, "max")
    assert next(iter(shares)) == "x"
    assert shares["x"] > 0.9
    assert importances(trials[:19], "max") == {}
    assert importances([trial(n, 0.5, x=str(n % 4), y=str(n % 5)) for n in range(24)], "max") == {}
    assert importances([trial(n, 0.5, y="1", x=str(n)) for n in range(20)], "max") == {"x": 1.0}


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.drawings: list[str] = []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag
        assert tag != "link"
        assert "src" not in dict(attrs)
        if tag == "svg":
            self.drawings.append(str(dict(attrs)["aria-label"]))

    def handle_data(self, data: str) -> None:
        if self._in == "h2" and data.strip():
            self.titles.append(data)


def test_the_page_shows_the_study() -> None:
    trials = [trial(n, 0.5 + n / 20, lr=str(10.0 ** -(n + 1)), freeze="ab"[n % 2]) for n in range(6)]
    failed = trial(6, state="failed", reason="<b>broke</b>", lr="1", freeze="a")
    text = lay_out_study(study(*trials, failed, shares=True))
    page = _Page(text)
    assert page.titles == ["Best", "Trials over time", "Hyperparameters", "Failures", "All trials"]
    assert page.drawings == [
        "Objective by trial", "Timeline of the trials", "Slice lr", "Slice freeze", "Parallel coordinates"
    ]  # fmt: skip
    assert "&lt;b&gt;broke" in text
    assert "75.0 %" in text


def test_a_study_of_two_objectives_has_a_front_and_an_empty_one_still_a_page() -> None:
    trials = [trial(n, n / 10, float(n), lr=str(n + 1)) for n in range(4)]
    assert "Pareto front" in _Page(lay_out_study(study(*trials, objectives=(ACCURACY, SIZE)))).drawings
    assert _Page(lay_out_study(study())).titles == ["All trials"]
