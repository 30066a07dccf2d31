"""Training that begins with a head solved on the donor's features, and never ends below it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import graft
from benchmarks.composed import composed
from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.finetune.metrics import Outputs
from graft.pipeline.head_start import Change, compare
from graft.pipeline.run import run
from graft.results.predictions import read_predictions
from graft.tasks.registry import task_of
from tests.pipeline.coloured import carried_out, words, write_images_and_donor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in which one channel is a little brighter, 30 of each for every part, and a donor."""
    place = tmp_path_factory.mktemp("coloured")
    write_images_and_donor(place, images=90, brighter=35)
    return place


def weights(place: Path) -> dict[str, torch.Tensor]:
    return load_file(place / "run" / "model" / "model.safetensors")


STEPS = ("freeze=none", "head.start=solved", "trainer.max_epochs=1", "trainer.clip_norm=1")
STILL = (*STEPS, "optimizer=sgd", "optimizer.lr=1e-12", "freeze_bn=all")
RUINOUS = (*STEPS, "optimizer=sgd", "optimizer.lr=5", "freeze_bn=all")


def test_training_begins_with_the_head_that_is_solved_on_a_frozen_trunk(folder: Path, tmp_path: Path) -> None:
    solved = carried_out(folder, tmp_path / "solved")
    still = carried_out(folder, tmp_path / "still", *STILL, "augment=light")
    begun = still["head"]["start"]
    for name in ("val/loss", "val/accuracy", "test/loss", "test/accuracy", "train/loss"):
        assert begun[name] == pytest.approx(solved[name], abs=1e-5)
    assert begun["penalty"] == solved["head"]["penalty"]
    assert still["head"]["returned"] is False
    assert still["best_epoch"] == 1
    before, after = weights(tmp_path / "solved"), weights(tmp_path / "still")
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)


def test_a_head_that_training_fell_below_comes_back(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solved = carried_out(folder, tmp_path / "solved")
    ruined = carried_out(folder, tmp_path / "ruined", *RUINOUS)
    assert ruined["head"]["returned"] is True
    assert ruined["head"]["fine_tuned"]["val/accuracy"] < solved["val/accuracy"] - 0.1
    assert ruined["best_epoch"] == 0
    for name in ("val/loss", "val/accuracy", "test/loss", "test/accuracy"):
        assert ruined[name] == pytest.approx(solved[name], abs=1e-5)
    before, after = weights(tmp_path / "solved"), weights(tmp_path / "ruined")
    assert all(torch.equal(before[name], after[name]) for name in before)
    told = capsys.readouterr().out
    assert "returned  training ended below the head that it began with" in told
    assert "solved head kept" in told


def test_predictions_are_those_of_the_weights_that_came_back(folder: Path, tmp_path: Path) -> None:
    carried_out(folder, tmp_path, *RUINOUS)
    model: Any = graft.load(tmp_path / "run")
    told = read_predictions(tmp_path / "run" / "predictions.csv")["test"]
    with torch.inference_mode():
        images = torch.stack([model.preprocess(Image.open(path)) for path in told.paths])
        answers = model(images).softmax(1).double().numpy()
    assert np.abs(answers - told.answers_NK).max() < 1e-4


def test_lora_comes_back_to_the_donors_own_weights(folder: Path, tmp_path: Path) -> None:
    steps = [word for word in RUINOUS if not word.startswith("freeze")]
    ruined = carried_out(folder, tmp_path, *steps, "method.lora=2", "optimizer.lr=50")
    donor = torch.load(folder / "donor.pth", weights_only=True)
    assert ruined["head"]["returned"] is True
    assert all(torch.equal(donor[name], value) for name, value in weights(tmp_path).items() if "classifier" not in name)


def test_features_of_the_start_are_of_images_without_augmentation_and_are_kept(folder: Path, tmp_path: Path) -> None:
    carried_out(
        folder, tmp_path / "solved", "head.solver=sgd", "trainer.max_epochs=1", f"cache.dir={tmp_path / 'cache'}"
    )
    entries = sorted((tmp_path / "cache").glob("*.graft"))
    carried_out(folder, tmp_path / "tuned", *STILL, "augment=light", f"cache.dir={tmp_path / 'cache'}")
    assert len(entries) == 1
    assert sorted((tmp_path / "cache").glob("*.graft")) == entries


def test_without_a_cache_nothing_of_it_is_kept(folder: Path, tmp_path: Path) -> None:
    given = [word for word in words(folder, tmp_path, *STILL, "cache=none") if not word.startswith("cache.dir")]
    run(composed(*given), tmp_path / "run", given)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["head"]["start"]["val/accuracy"] > 0.5
    assert not list(tmp_path.rglob("*.graft"))


@pytest.mark.parametrize(
    ("more", "starts"),
    [((), [0]), (("unfreeze.start=2 epochs",), [0, 4]), (("head.start=random",), [0, 2])],
)
def test_lp_ft_solves_its_first_phase(folder: Path, tmp_path: Path, more: tuple[str, ...], starts: list[int]) -> None:
    given = words(folder, tmp_path, "unfreeze=lp_ft", "trainer.max_epochs=3", "data.batch_size=45", "mode=plan", *more)
    run(composed(*given), tmp_path / "run", given)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert [phase["start_step"] for phase in plan["phases"]] == starts
    assert plan["phases"][-1]["frozen_stages"] == []
    assert plan["head_start"]["solved"] is ("head.start=random" not in more)


@pytest.mark.parametrize(
    ("more", "received"),
    [
        (("donor=none", "freeze=none"), "donor=none"),
        (("freeze=backbone",), "freeze=backbone, with which the head is all that trains"),
    ],
)
def test_a_start_that_cannot_be_solved_is_refused(
    folder: Path, tmp_path: Path, more: tuple[str, ...], received: str
) -> None:
    given = [*words(folder, tmp_path, "head.start=solved"), *more]
    if "donor=none" in more:
        given = [word for word in given if not word.startswith("donor.path")]
    with pytest.raises(InputError, match=f"head.start: .*{received}"):
        run(composed(*given), tmp_path / "run", given)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Change(figure=-0.02, figure_error=0.03, loss=-0.1, loss_error=0.02), False),
        (Change(figure=-0.05, figure_error=0.03, loss=-0.1, loss_error=0.02), True),
        (Change(figure=-0.02, figure_error=0.03, loss=0.1, loss_error=0.02), True),
        (Change(figure=0.02, figure_error=0.01, loss=0.1, loss_error=0.02), False),
        (Change(figure=0.0, figure_error=0.0, loss=0.0, loss_error=0.0), False),
    ],
)
def test_worse_is_worse_beyond_the_noise(change: Change, expected: bool) -> None:
    assert change.is_worse is expected


def outputs(answers: list[list[float]], label: list[Any]) -> Outputs:
    return Outputs(
        index=torch.arange(len(label)),
        label=torch.tensor(label),
        answers=torch.tensor(answers),
        logits=torch.tensor(answers).log(),
    )


def test_the_change_is_counted_image_by_image() -> None:
    task = task_of(TaskKind.single_label, ("a", "b"), [0, 1])
    label = [0, 0, 1, 1]
    before = outputs([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.2, 0.8]], label)
    after = outputs([[0.9, 0.1], [0.3, 0.7], [0.4, 0.6], [0.2, 0.8]], label)
    change = compare(task, before, after)
    assert change.figure == pytest.approx(-0.25)
    assert change.figure_error == pytest.approx(0.25)  # of -1, 0, 0, 0: deviation 0.5 over the root of 4
    assert change.loss == pytest.approx((np.log(0.8) - np.log(0.3)) / 4, abs=1e-6)


def test_each_task_says_how_right_an_answer_is() -> None:
    several = task_of(TaskKind.multi_label, ("a", "b"), [[1, 0], [0, 1]])
    right, loss = several.judged(torch.tensor([[0.9, 0.2], [0.4, 0.2]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert right.tolist() == [1.0, 0.5]
    assert loss.tolist() == pytest.approx([-(np.log(0.9) + np.log(0.8)) / 2, -(np.log(0.4) + np.log(0.8)) / 2])
    number = task_of(TaskKind.regression, ("n",), [[0.0], [2.0]])  # deviation 1
    right, loss = number.judged(torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [1.0]]))
    assert loss.tolist() == pytest.approx([4.0, 0.0])
    assert right.tolist() == pytest.approx([-4.0, 0.0])


@pytest.mark.parametrize(("steps", "exported"), [(STILL, "what training made of it"), (RUINOUS, "the solved head")])
def test_the_report_shows_the_head_and_what_training_made_of_it(
    folder: Path, tmp_path: Path, steps: tuple[str, ...], exported: str
) -> None:
    metrics = carried_out(folder, tmp_path, *steps)
    page = (tmp_path / "run" / "report.html").read_text()
    after = metrics["head"].get("fine_tuned", metrics)
    assert f"Exported is {exported}" in page
    assert f"{metrics['head']['start']['val/loss']:.3f}"[:5] in page
    assert f"{after['val/loss']:.3f}"[:5] in page


def test_the_last_epoch_is_exported_where_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    steps = [word for word in STILL if not word.startswith(("trainer.max_epochs", "optimizer.lr"))]
    more = ("trainer.max_epochs=3", "optimizer.lr=0.5", "head.start=random")  # the loss rises
    best = carried_out(folder, tmp_path / "best", *steps, *more)
    last = carried_out(folder, tmp_path / "last", *steps, *more, "checkpoint.epoch=last")
    assert best["best_epoch"] < last["best_epoch"] == 3
    saved = torch.load(tmp_path / "last" / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[f"network.{name}"]) for name, value in weights(tmp_path / "last").items())
