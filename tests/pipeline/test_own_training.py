"""An optimizer, a learning-rate schedule, an unfreeze schedule and loggers of a user's own."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import graft
from graft.config.faults import InputError
from graft.config.own_code import refuse_own_code
from graft.finetune.checkpoint import read_checkpoint
from graft.pipeline.session import plan
from tests.own_schedules import SignSGD, halves, quarters

SMALL = (
    "backbone=timm", "backbone.name=test_resnet", "data=folder", "data.image_size=32", "data.num_workers=0",
    "data.batch_size=4", "trainer.max_epochs=4", "trainer.accelerator=cpu", "trainer.threads=1", "cache=none",
    "trainer.progress=false", "optimizer.lr=0.001",
)  # fmt: skip
FILES = {"_target_": "lightning.pytorch.loggers:CSVLogger"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes, and donor.pth."""
    folder, rng = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    for name in ("cat", "dog"):
        for part, count in (("train", 4), ("val", 2)):
            (folder / "images" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "images" / part / name / f"{number}.png")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), folder / "donor.pth")
    return folder


def words(place: Path) -> list[str]:
    return [*SMALL, "donor=file", f"donor.path={place}/donor.pth", f"data.root={place}/images"]


def test_a_training_goes_by_them_and_writes_to_several_loggers(place: Path, tmp_path: Path) -> None:
    run = graft.train(
        *words(place), "logger=tensorboard", optimizer=SignSGD, scheduler=quarters, unfreeze=halves,
        logger={"own": {"files": FILES, "more": {**FILES, "save_dir": str(tmp_path / "more"), "name": "mine"}}},
        folder=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert [(phase["start_step"], phase["frozen"]) for phase in run.metrics["phases"]] == [(0, "backbone"), (4, "none")]
    state = read_checkpoint(run.folder / "checkpoints" / "last.ckpt")["optimizer_states"][0]
    assert {name for each in state["state"].values() for name in each} == {"mean"}
    rows = list(csv.DictReader((run.folder / "metrics.csv").read_text().splitlines()))
    assert [float(row["lr/head"]) for row in rows] == pytest.approx([0.001, 0.00075, 0.0005, 0.00025])
    assert len(list((run.folder / "lightning_logs").rglob("metrics.csv"))) == 1
    assert len(list((tmp_path / "more" / "mine").rglob("metrics.csv"))) == 1
    assert list((run.folder / "tensorboard").glob("events.*"))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["optimizer=custom"], r"optimizer\.target: expected the import path of an optimizer"),
        (["optimizer.target=torch.optim:NAdam"], r"optimizer\.target: expected nothing|optimizer\.name"),
        (["optimizer=custom", "optimizer.target=torch.optim:NAdem"], r"'NAdem'.*try torch\.optim:NAdam"),
        (
            ["optimizer=custom", "optimizer.target=tests.own_schedules:SignSGD", "optimizer.weight_decay=0.1"],
            r"optimizer\.weight_decay: expected 0 with tests\.own_schedules:SignSGD",
        ),
        (
            ["optimizer=custom", "optimizer.target=tests.own_schedules:not_an_optimizer"],
            r"optimizer\.target: .*received a list",
        ),
        (
            ["optimizer=custom", "optimizer.target=tests.own_schedules:WithoutClosure"],
            r"optimizer\.target: expected step\(closure\) of .* to call its closure once, .* received 0 calls",
        ),
        (
            ["scheduler=custom", "scheduler.target=tests.own_schedules:negative"],
            r"scheduler\.target: expected tests\.own_schedules:negative to return a factor from 0 upward, received -1",
        ),
        (
            ["scheduler=custom", "scheduler.target=tests.own_schedules:quarters", "scheduler.kwargs={highest: 1}"],
            r"scheduler\.target: .*try other scheduler\.kwargs",
        ),
        (
            ["unfreeze=custom", "unfreeze.target=tests.own_schedules:halves", "freeze=layer1-2"],
            r"freeze: expected backbone, which tests\.own_schedules:halves returns at the start, received layer1-2",
        ),
        (
            ["unfreeze=custom", "unfreeze.target=tests.own_schedules:halves", "unfreeze.kwargs={later: layer9}"],
            r"unfreeze\.target at a progress of 0\.5",
        ),
        (
            ["unfreeze=custom", "unfreeze.target=tests.own_schedules:numbers"],
            r"unfreeze\.target: expected tests\.own_schedules:numbers to return a freeze expression",
        ),
        (
            ["logger.own={a: {_target_: tests.own_schedules:SignSGD, lr: 1}}"],
            r"logger\.own\.a: expected tests\.own_schedules:SignSGD to be a lightning\.pytorch\.loggers\.Logger",
        ),
        (["logger.own={a: nosuch}"], r"logger\.own\.a: expected {_target_: package\.module:Class"),
    ],
)
def test_what_is_wrong_is_said_before_training(place: Path, more: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        plan(*words(place), *more)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer.target": "a:b"},
        {"scheduler": "{kind: custom, target: a:b}"},
        {"unfreeze.target": "a:b"},
        {"logger.own": "{x: {_target_: a:b}}"},
        {"logger.own.x._target_": "a:b"},
    ],
)
def test_a_foreign_run_that_names_them_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected a run without code of its own"):
        refuse_own_code("run", settings)
