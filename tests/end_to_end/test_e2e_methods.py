"""Methods in real runs: what each leaves in the run's folder, and that the plain library takes what is exported."""

from __future__ import annotations

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
        "experiment=bitfit", "donor=file", f"donor.path={donor}", "method.distill=1", "augment.mixup=0.2",
        f"data.root={images}", *SMALL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [name for name in torch.load(donor) if not name.startswith("fc.")]
    convolutions = {name for name in names if "conv" in name or "downsample.0" in name}
    assert moved(donor, tmp_path / "run") == set(names) - convolutions
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["frozen_verified"] is True
    for said in ("methods   distillation 1 at temperature 2", "BitFit", "mixup, share from Beta(0.2, 0.2)"):
        assert said in done.stdout
