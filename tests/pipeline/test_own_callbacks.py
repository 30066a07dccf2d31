"""callbacks=: Lightning callbacks of a user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import graft
from graft.config.faults import InputError
from graft.pipeline.session import plan
from tests.own_callbacks import Steps

SMALL = (
    "backbone=timm", "backbone.name=test_resnet", "data=folder", "data.image_size=32", "data.num_workers=0",
    "data.batch_size=4", "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.threads=1",
    "trainer.progress=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in ("cat", "dog"):
        for part, count in (("train", 6), ("val", 2)):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


def test_fine_tuning_calls_them(pictures: Path, tmp_path: Path) -> None:
    entry = {"_target_": Steps, "path": tmp_path / "steps.txt"}
    graft.train(
        *SMALL, "donor=none", "freeze=none", data={"root": pictures}, callbacks={"steps": entry},
        folder=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert (tmp_path / "steps.txt").read_text() == "3"


def test_a_head_on_kept_features_is_trained_by_steps_that_call_them(pictures: Path, tmp_path: Path) -> None:
    import timm
    import torch

    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "donor.pth")
    run = graft.train(
        *SMALL, "donor=file", f"donor.path={tmp_path}/donor.pth", "cache=features", f"cache.dir={tmp_path}/cache",
        data={"root": pictures}, callbacks={"steps": {"_target_": Steps, "path": tmp_path / "steps.txt"}},
        folder=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert (tmp_path / "steps.txt").read_text() == "3"
    assert run.metrics["frozen_verified"] is True


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{_target_: tests.own_callbacks:Stepz}", r"callbacks\.a: .*'Stepz', .*try tests\.own_callbacks:Steps"),
        ("{_target_: tests.own_callbacks:NoCallback}", r"callbacks\.a: .*to be a lightning\.pytorch\.Callback"),
        ("{_target_: tests.own_callbacks:Steps}", r"callbacks\.a: .*to take \(\), received one that takes \(path"),
        ("{path: x}", r"callbacks\.a: expected {_target_: package\.module:Class"),
        ("{_target_: nosuchpackage:A}", "with a module that exists"),
    ],
)
def test_what_is_wrong_is_said_before_training(pictures: Path, entry: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        plan(*SMALL, "donor=none", "freeze=none", f"callbacks={{a: {entry}}}", data={"root": pictures})
