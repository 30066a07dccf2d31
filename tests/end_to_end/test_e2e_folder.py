"""A folder of images, a ResNet-50 file in torch's hub cache, and what happens without one."""

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

SMALL = ("data.image_size=64", "data.batch_size=8", "trainer.max_epochs=1", "data=folder")
RESNET50_FILE = "resnet50-11ad3fa6.pth"


@pytest.fixture
def resnet50_donor(hub: Path) -> Path:
    torch.manual_seed(7)
    model = torchvision.models.resnet50()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.save(model.state_dict(), hub / RESNET50_FILE)
    return hub / RESNET50_FILE


@pytest.mark.parametrize("cache", ["none", "features"])
def test_layer1_3_frozen_trains_exactly_layer4_and_the_head(
    train: Train, images: Path, resnet50_donor: Path, tmp_path: Path, cache: str
):
    cached = (f"cache={cache}", f"cache.dir={tmp_path / 'cache'}")[: 1 if cache == "none" else 2]
    done = train("backbone=resnet50", "freeze=layer1-3", f"data.root={images}", *cached, *SMALL)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    assert json.loads((run / "metrics.json").read_text())["frozen_verified"] is True
    before, after = torch.load(resnet50_donor), load_file(run / "model" / "model.safetensors")
    head = ("fc.weight", "fc.bias")
    moved = {name for name in before if name not in head and not torch.equal(before[name], after[name])}
    trunk = {name for name in before if name.startswith("layer4.")}
    assert moved == trunk
    assert after["fc.weight"].shape == (2, 2048)
    plain = torchvision.models.resnet50(num_classes=2)
    plain.load_state_dict(after, strict=True)


def test_no_donor_file_and_no_network_says_what_to_do(train: Train, images: Path):
    done = train("backbone=resnet50", "freeze=layer1-3", f"data.root={images}", *SMALL, timeout=60)
    assert done.returncode == 2
    for word in (RESNET50_FILE, "checkpoints", "donor=file", "donor=none"):
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_freezing_random_weights_is_an_error(train: Train, images: Path, tmp_path: Path):
    done = train("backbone=resnet18", "donor=none", "freeze=layer1-3", f"data.root={images}", *SMALL)
    assert done.returncode == 2
    assert "random" in done.stderr
    assert "freeze=none" in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_training_from_scratch_says_so(train: Train, images: Path, tmp_path: Path):
    done = train("backbone=resnet18", "donor=none", "freeze=none", f"data.root={images}", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "from scratch" in done.stdout
    record = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert record["preprocess"]["reduced_jpeg"] is True, "as data.reduced_jpeg says, which prediction goes by"


def test_a_freeze_name_that_matches_nothing_lists_the_stages(train: Train, images: Path, resnet50_donor: Path):
    done = train("backbone=resnet50", "freeze=layr1-3", f"data.root={images}", *SMALL)
    assert done.returncode == 2
    for stage in ("stem", "layer1", "layer2", "layer3", "layer4"):
        assert stage in done.stderr
