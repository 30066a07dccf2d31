"""What auto stands for: epochs by the number of training images."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torchvision

from graft.config.presets import composed
from graft.data.table import Sample, Table
from graft.plan.plan import make_plan
from graft.plan.recipe import with_recipe
from graft.transfer import donor_of_module


@pytest.mark.parametrize(
    ("images", "words", "epochs"),
    [
        (420, (), 12),  # 27 steps
        (84, (), 30),  # 6 steps, in which 54 epochs would make 320
        (2000, (), 4),  # 125 steps
        (14_000, (), 4),
        (420, ("trainer.accumulate=2",), 23),  # 14 steps
        (420, ("data.batch_size=64",), 30),
        (420, ("trainer.max_epochs=7",), 7),
    ],
)
def test_epochs_make_some_hundred_steps(images: int, words: Sequence[str], epochs: int) -> None:
    config = composed(["trainer.max_epochs=auto", "data.batch_size=16", "freeze=none", *words])
    chosen, remark = with_recipe(config, images)
    assert chosen.trainer.epochs == epochs
    assert bool(remark) is ("trainer.max_epochs=7" not in words)


def test_the_plan_has_the_number_and_says_it() -> None:
    samples = tuple(Sample(path=f"{number}.png", label=number % 2) for number in range(44))
    table = Table(classes=("a", "b"), train=samples, val=samples[:4], test=())
    torch.manual_seed(0)
    donor = donor_of_module(torchvision.models.resnet18())
    words = ["trainer.max_epochs=auto", "backbone=resnet18", "data.image_size=64", "freeze=none", "data.batch_size=4"]
    record = make_plan(composed(words), table, lambda: donor).to_dict()
    assert (record["epochs"], record["steps"]) == (30, 330)
    assert "trainer.max_epochs=auto: 30 epochs of 11 steps" in record["remarks"]


def test_what_is_still_to_be_chosen_is_no_number() -> None:
    with pytest.raises(ValueError, match=r"trainer\.max_epochs: expected a number, received auto"):
        _ = composed(["trainer.max_epochs=auto"]).trainer.epochs
