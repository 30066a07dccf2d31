"""No training batch is left with one image in front of a batch-norm that cannot train on one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image
from torchvision.models import resnet18

from graft.config.choices import DonorKind
from graft.config.compose import parse, register
from graft.config.faults import InputError
from graft.config.schema import Config
from graft.data.table import Sample, Table
from graft.pipeline.run import run
from graft.plan.plan import Plan, make_plan
from graft.transfer import donor_of_module
from graft.transfer.chosen import open_chosen

CONF = Path(__file__).resolve().parents[2] / "conf"
MLP = ("head=mlp", "head.hidden=[8]", "head.norm=batch", "freeze=backbone")


def config_of(*overrides: str) -> Config:
    register()
    common = ("backbone=resnet18", "data.image_size=64", "trainer=cpu", "trainer.progress=false")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse(compose("config", [*common, *overrides]))


def table_of(train: int, val: int = 4) -> Table:
    samples = tuple(Sample(path=f"{number}.png", label=number % 2) for number in range(max(train, val)))
    return Table(classes=("a", "b"), train=samples[:train], val=samples[:val], test=())


def plan_of(train: int, *overrides: str, val: int = 4) -> Plan:
    config = config_of(*overrides)
    none = config.donor.kind is DonorKind.none
    return make_plan(
        config, table_of(train, val), lambda: open_chosen(config.network) if none else donor_of_module(resnet18())
    )


SCRATCH = ("donor=none", "freeze=none")


@pytest.mark.parametrize(
    ("overrides", "fewest"),
    [
        (MLP, 2),
        ((*SCRATCH, "data.image_size=32"), 2),  # layer4 comes to one pixel
        (SCRATCH, 1),  # two by two pixels: an image has a variance
        ((*SCRATCH, "data.image_size=32", "freeze_bn=all"), 1),
        (("freeze=backbone", "data.image_size=32"), 1),
        (("freeze=backbone", "data.image_size=32", "unfreeze=lp_ft", "unfreeze.start=1 epoch"), 2),
    ],
)
def test_a_batch_norm_that_trains_on_single_values_needs_two_images(overrides, fewest):
    plan = plan_of(65, "data.batch_size=32", *overrides)
    assert plan.fewest == fewest
    assert plan.training.steps_per_epoch == 3


def test_a_batch_size_of_one_is_answered_where_it_cannot_train():
    with pytest.raises(
        InputError, match=r"data\.batch_size: .*as fc\.norm1 is a batch-norm .*; try data\.batch_size=3"
    ):
        plan_of(65, "data.batch_size=1", *MLP)
    assert plan_of(65, "data.batch_size=1", *SCRATCH).training.steps_per_epoch == 65


@pytest.mark.parametrize(
    ("train", "val", "message"), [(65, 1, "for 1 val images"), (3, 4, "batches of which each holds")]
)
def test_processes_without_an_image_are_answered(train, val, message):
    with pytest.raises(InputError, match=message):
        plan_of(train, "trainer=ddp", "trainer.devices=4", "data.batch_size=1", *SCRATCH, val=val)


def test_a_run_shares_out_what_would_be_a_batch_of_one(tmp_path):
    """9 images in batches of 4 at 32 pixels: 4, 3 and 2."""
    rng = np.random.default_rng(0)
    for part, images in {"train": 9, "val": 2}.items():
        for number in range(images):
            place = tmp_path / "images" / part / "ab"[number % 2] / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(place)
    overrides = (
        *SCRATCH, "data=folder", f"data.root={tmp_path / 'images'}", "data.image_size=32", "data.batch_size=4",
        "data.num_workers=0", "trainer.max_epochs=1", "cache=none",
    )  # fmt: skip
    config = config_of(*overrides)
    run(replace(config, seed=1), tmp_path / "run", overrides)
    assert (tmp_path / "run" / "metrics.json").exists()
