"""Kept features are those of the network, whatever folding would make of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from benchmarks.pictures import generated
from benchmarks.steps.by_graft import ready
from benchmarks.task import Task
from graft.config.faults import InputError
from graft.pipeline import features as precompute

ROOT = Path(__file__).resolve().parents[2]
NORM = "layer2.0.bn1"


def task_in(folder: Path) -> Task:
    return Task(
        images=str(generated(folder / "images", {"train": 4, "val": 2}, size=(40, 40))),
        donor=str(folder / "donor"),
        library="torchvision", model="resnet18", head="fc", backbone="resnet18", freeze="layer1-3", trains=("layer4",),
        image_size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), epochs=1, batch_size=2,
    )  # fmt: skip


@pytest.mark.parametrize("mean", [0.0, 1e6])
def test_an_engine_computes_them_where_it_is_proven_and_else_the_network(
    mean: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mean far from zero leaves nothing of the digits once it is folded into a bias."""
    monkeypatch.chdir(ROOT)
    torch.manual_seed(0)
    state = models.resnet18().state_dict()
    spread = (state[f"{NORM}.running_var"] + 1e-5).sqrt()
    state[f"{NORM}.running_mean"].fill_(mean)
    state[f"{NORM}.bias"] += mean * state[f"{NORM}.weight"] / spread
    save_file(state, tmp_path / "donor")
    run = ready(task_in(tmp_path), tmp_path)
    said = "computed by the network as it is: cut: expected the same features from the folded prefix"
    assert (said in capsys.readouterr().out) is bool(mean)

    pictures = run.data.images("val", augmented=False)
    features = next(iter(run.data.val_dataloader()))
    with torch.no_grad():
        images = torch.stack([pictures[0, int(index)]["image"] for index in features["index"]])
        expected, received = run.tuning.network.eval()(images), run.trained.eval()(features["features"])
    assert received.numpy() == pytest.approx(expected.numpy(), abs=1e-4 * float(expected.abs().max()))


def test_what_a_proven_engine_has_computed_is_taken_without_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights and precision are in the key; a donor with other weights has its features computed."""
    monkeypatch.chdir(ROOT)
    torch.manual_seed(0)
    state = models.resnet18().state_dict()
    save_file(state, tmp_path / "donor")
    task = task_in(tmp_path)
    first = next(iter(ready(task, tmp_path).data.val_dataloader()))["features"]

    def refused(*args: object, **kwargs: object) -> None:
        raise InputError("no engine")

    monkeypatch.setattr(precompute, "proven_engine", refused)
    again = next(iter(ready(task, tmp_path).data.val_dataloader()))["features"]
    assert torch.equal(first, again)
    assert "no engine" not in capsys.readouterr().out

    state["conv1.weight"] *= 2
    save_file(state, tmp_path / "donor")
    other = next(iter(ready(task, tmp_path).data.val_dataloader()))["features"]
    assert not torch.equal(first, other)
    assert "computed by the network as it is: no engine" in capsys.readouterr().out
