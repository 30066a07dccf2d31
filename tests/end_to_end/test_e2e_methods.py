"""Methods in real runs: what each leaves in the run's folder, and that the plain library takes what is exported."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file

Train = Callable[..., subprocess.CompletedProcess[str]]

SMALL = ("backbone=resnet18", "data.image_size=32", "data.batch_size=8", "trainer.max_epochs=1", "data=folder")

pytestmark = pytest.mark.slow


@pytest.fixture
def donor(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    path = tmp_path / "donor.pth"
    torch.save(torchvision.models.resnet18(num_classes=5).state_dict(), path)
    return path


def moved(donor: Path, run: Path) -> set[str]:
    before, after = torch.load(donor), load_file(run / "model" / "model.safetensors")
    torchvision.models.resnet18(num_classes=2).load_state_dict(after, strict=True)
    assert set(before) == set(after)
    return {name for name in before if not name.startswith("fc.") and not torch.equal(before[name], after[name])}


def test_lora_is_merged_and_its_account_is_the_donors(train: Train, images: Path, donor: Path, tmp_path: Path):
    done = train(
        "experiment=lora", "donor=file", f"donor.path={donor}", "method.lora_targets=[layer4.*]", "method.ema=0.9",
        f"data.root={images}", "cache=features", f"cache.dir={tmp_path / 'cache'}", *SMALL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    convolutions = {f"layer4.{name}.weight" for name in ("0.conv1", "0.conv2", "0.downsample.0", "1.conv1", "1.conv2")}
    assert moved(donor, run) == convolutions
    record = json.loads((run / "model" / "model.json").read_text())
    assert {name for name, entry in record["tensors"]["each"].items() if entry["trained"]} == {
        *convolutions, "fc.weight", "fc.bias",
    }  # fmt: skip
    assert json.loads((run / "metrics.json").read_text())["frozen_verified"] is True
    plan = json.loads((run / "plan.json").read_text())
    assert plan["cache"]["cut"] == "layer3"
    assert [line.split(" ")[0] for line in plan["methods"]] == ["running", "LoRA"]
    ledger = json.loads((run / "transfer.json").read_text())
    assert not any("lora" in entry["target"] for entry in ledger["tensors"])


def test_bitfit_beside_distillation_and_mixup(train: Train, images: Path, donor: Path, tmp_path: Path):
    done = train(
        "experiment=bitfit", "head.start=random", "donor=file", f"donor.path={donor}", "method.distill=1",
        "augment.mixup=0.2",
        f"data.root={images}", *SMALL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [name for name in torch.load(donor) if not name.startswith("fc.")]
    convolutions = {name for name in names if "conv" in name or "downsample.0" in name}
    assert moved(donor, tmp_path / "run") == set(names) - convolutions
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["frozen_verified"] is True
    for said in ("methods   distillation 1 at temperature 2", "BitFit", "mixup, share from Beta(0.2, 0.2)"):
        assert said in done.stdout


def test_lp_ft_trains_its_head_from_kept_features_and_then_on_images(
    train: Train, images: Path, donor: Path, tmp_path: Path
):
    rows = {}
    for name, words in {
        "kept": ("cache=auto", f"cache.dir={tmp_path / 'cache'}"),
        "plain": ("cache=none", "trainer.engine=false"),
    }.items():
        done = train(
            "experiment=lp_ft", "head.start=random", "unfreeze.start=2 epochs", "unfreeze.phase_factors=[1,0.1]",
            "optimizer=sgd", "optimizer.lr=0.003", "donor=file", f"donor.path={donor}", *words,
            f"data.root={images}", *SMALL,
            "trainer.max_epochs=3", "trainer.precision=32-true", f"hydra.run.dir={tmp_path / name}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with open(tmp_path / name / "metrics.csv") as file:
            rows[name] = [[float(row["train/loss"]), float(row["val/loss"])] for row in csv.DictReader(file)]
    plan = json.loads((tmp_path / "kept" / "plan.json").read_text())
    assert [(kept["cut"], kept["epochs"]) for kept in plan["cache"]["kept"]] == [("layer4", [0, 2])]
    assert len(list((tmp_path / "cache").glob("*.graft"))) == 1
    metrics = json.loads((tmp_path / "kept" / "metrics.json").read_text())
    assert metrics["frozen_verified"] is True
    assert metrics["prefix"] == {}  # no epoch with frozen stages saw an image
    assert rows["kept"] == [pytest.approx(row, abs=1e-4) for row in rows["plain"]]


def test_features_that_folding_would_change_are_computed_by_the_network_as_it_is(
    train: Train, images: Path, donor: Path, tmp_path: Path
):
    """A mean far from zero leaves nothing of the digits once it is folded into a bias."""
    state, norm = torch.load(donor), "layer2.0.bn1"
    spread = (state[f"{norm}.running_var"] + 1e-5).sqrt()
    state[f"{norm}.running_mean"].fill_(1e6)
    state[f"{norm}.bias"] += 1e6 * state[f"{norm}.weight"] / spread
    torch.save(state, tmp_path / "far.pth")
    losses: dict[str, float] = {}
    for name, words in {
        "kept": ("cache=features", f"cache.dir={tmp_path / 'cache'}"),
        "plain": ("cache=none", "trainer.engine=false"),
    }.items():
        done = train(
            "freeze=layer1-3", "donor=file", f"donor.path={tmp_path / 'far.pth'}", *words, f"data.root={images}",
            *SMALL, "trainer.precision=32-true", f"hydra.run.dir={tmp_path / name}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("computed by the network as it is: cut: expected the same features" in done.stdout) is (name == "kept")
        losses[name] = json.loads((tmp_path / name / "metrics.json").read_text())["val/loss"]
    assert losses["kept"] == pytest.approx(losses["plain"], abs=1e-4)


def test_varied_images_go_through_the_engine(train: Train, images: Path, donor: Path, tmp_path: Path):
    done = train(
        "freeze=layer1-3", "augment=light", "donor=file", f"donor.path={donor}", f"data.root={images}", *SMALL,
        "trainer.precision=32-true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "prefix    frozen stages run on images without autograd, batch-norm folded, channels-last" in done.stdout
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["prefix"] == {"layer3": dict.fromkeys(("train", "evaluation"), "folded, float32")}
    assert metrics["frozen_verified"] is True
    assert {name.split(".")[0] for name in moved(donor, tmp_path / "run")} == {"layer4"}


def test_the_fastest_step_is_measured_once_and_remembered(train: Train, images: Path, donor: Path, tmp_path: Path):
    words = (
        "trainer.tune=auto", "freeze=layer1-3", "augment=light", "donor=file", f"donor.path={donor}",
        f"data.root={images}", f"cache.dir={tmp_path / 'cache'}", *SMALL,
    )  # fmt: skip
    told = {name: train(*words, f"hydra.run.dir={tmp_path / name}") for name in ("first", "second")}
    assert [done.returncode for done in told.values()] == [0, 0], told["first"].stderr
    found = {name: json.loads((tmp_path / name / "tune.json").read_text()) for name in told}
    assert found["first"] == found["second"]
    kept = list((tmp_path / "cache" / "tune").glob("*.json"))
    assert len(kept) == 1
    assert "step      measured over" in told["first"].stdout
    assert f"step      as measured before ({kept[0]})" in told["second"].stdout
    assert [line for line in told["second"].stdout.splitlines() if line.endswith("chosen")]
    chosen = [each for each in found["first"]["tried"] if found["first"]["chosen"].items() <= each.items()]
    assert chosen[0]["off"] <= found["first"]["tolerance"]
    assert json.loads((tmp_path / "first" / "metrics.json").read_text())["seconds"]["tune"] > 0
    (tmp_path / "second" / "tune.json").unlink()
    again = train(*words, f"hydra.run.dir={tmp_path / 'second'}", "trainer.max_epochs=2")
    assert again.returncode == 2
    assert "trainer.tune: expected" in again.stderr + again.stdout
