"""data.task beside other options: what does not fit is answered before torch is imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graft.config.choices import TaskKind
from graft.config.figures import FIGURES, monitored, trained_figure

CONF = Path(__file__).resolve().parents[2] / "conf"
TABLE = ("data=csv", "data.root=pyproject.toml")
SEVERAL, NUMBERS = (*TABLE, "data.task=multi_label"), (*TABLE, "data.task=regression")

FaultsOf = Callable[..., dict[str, str]]


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONF.parent)


@pytest.mark.parametrize(
    ("overrides", "key", "said"),
    [
        (["data.task=multi_label"], "data.task", "single_label or regression with data=solar_cells"),
        (["data=folder", "data.root=conf", "data.task=regression"], "data.task", "single_label with data=folder"),
        ([*NUMBERS, "loss.label_smoothing=0.1"], "loss.label_smoothing", "nothing with data.task=regression"),
        ([*NUMBERS, "loss.class_weights=balanced"], "loss.class_weights", "nothing with data.task=regression"),
        ([*NUMBERS, "donor.class_map=names"], "donor.class_map", "nothing with data.task=regression"),
        ([*SEVERAL, "data.balanced=true"], "data.balanced", "nothing with data.task=multi_label"),
        (["data.task=regression", "data.targets=soft"], "data.targets", "nothing with data.task=regression"),
        (["data.separator='|'"], "data.separator", "data.task=multi_label, or leave data.separator out"),
        (["loss.regression=smooth_l1"], "loss.regression", "data.task=regression, or leave"),
        (["data.task=regression", "data.columns=[a]"], "data.columns", "nothing with data=solar_cells"),
        ([*NUMBERS, "data.columns=[a,a]"], "data.columns", "names of columns, each once"),
        ([*NUMBERS, "checkpoint.monitor=val/accuracy"], "checkpoint.monitor", "val/r2, train/loss, train/mae"),
        (["checkpoint.monitor=val/acuracy"], "checkpoint.monitor", "try checkpoint.monitor=val/accuracy"),
        (["checkpoint.monitor=train/f1"], "checkpoint.monitor", "received 'train/f1'"),
        (["checkpoint.monitor=val/accuracy"], "checkpoint.direction", "max with checkpoint.monitor=val/accuracy"),
        (["loss.class_weights=balanced", "data.batch_size=1"], "loss.class_weights", "none with steps of one image"),
        (["checkpoint.direction=max"], "checkpoint.direction", "min with checkpoint.monitor=val/loss"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_task_is_answered(overrides: list[str], key: str, said: str, faults_of: FaultsOf) -> None:
    assert said in faults_of(*overrides)[key]


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.task=regression", "loss.regression=smooth_l1", "augment.mixup=0.2"],
        [*NUMBERS, "data.columns=[a,b]", "checkpoint.monitor=val/r2", "checkpoint.direction=max"],
        [*SEVERAL, "data.separator='|'", "loss.class_weights=balanced", "loss.label_smoothing=0.1"],
        [*SEVERAL, "checkpoint.monitor=val/map", "checkpoint.direction=max", "donor.class_map=names"],
        ["checkpoint.monitor=train/accuracy", "checkpoint.direction=max"],
        ["loss.class_weights=balanced", "data.batch_size=1", "trainer.accumulate=2"],
        [*SEVERAL, "loss.class_weights=balanced", "data.batch_size=1"],
    ],
)
def test_what_fits_is_not(overrides: list[str], faults_of: FaultsOf) -> None:
    assert faults_of(*overrides) == {}


@pytest.mark.parametrize("task", list(TaskKind))
def test_every_task_can_be_chosen_by_its_loss_and_counts_one_figure_in_training(task: TaskKind) -> None:
    known = monitored(task)
    assert known["val/loss"].falls
    assert {name for name in known if name.startswith("train/")} == {"train/loss", f"train/{trained_figure(task).name}"}
    assert {f"val/{figure.name}" for figure in FIGURES[task]} < set(known)
