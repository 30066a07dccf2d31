"""Every recipe of conf/experiment on a tiny network with batch norm, stopped and resumed: what is frozen has kept every
bit, statistics included, and what has thawed has moved."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from graft.config.compose import parse, register
from graft.finetune.module import FineTuning
from graft.pipeline.head_start import Change
from graft.pipeline.run import run
from graft.system.stopping import Stopped, StopSignals

CONF = Path(__file__).resolve().parents[2] / "conf"
RECIPES = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
EPOCHS, STEPS = 4, 3

# What a recipe says of EfficientNet's stages and of long trainings, said of a network of five stages and 4 epochs.
SHORTER = {
    "last_stage": ["freeze=stage1-4"],
    "layer1_3_frozen": ["freeze=stage1-3"],
    "solar_cells_finetune": ["freeze=stage1-2", "data.targets=hard"],
    "lp_ft": ["unfreeze.start=2 epochs"],
    "gradual": ["unfreeze.start=1 epoch", "unfreeze.every=1 epoch"],
}

pytestmark = pytest.mark.slow


@pytest.fixture
def donor(tmp_path: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet", num_classes=5)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.save(network.state_dict(), tmp_path / "donor.pth")
    return network.state_dict()


def carry_out(recipe: str, folder: Path, images: Path, tmp_path: Path) -> None:
    words = [
        f"experiment={recipe}", "backbone=timm", "backbone.name=test_efficientnet", "donor=file",
        f"donor.path={tmp_path / 'donor.pth'}", "data=folder", f"data.root={images}", "data.batch_size=8",
        "trainer.accelerator=cpu", "trainer.progress=false", f"trainer.max_epochs={EPOCHS}", "cache=none",
        "trainer.engine=false", *SHORTER.get(recipe, []), "data.image_size=32", "checkpoint.epoch=last",
    ]  # fmt: skip
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = parse(compose("config", words))
    with StopSignals() as signals:
        run(config, folder, words, signals)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_frozen_keeps_its_bits_and_what_thaws_moves(
    recipe: str, images: Path, donor: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, calls, step = tmp_path / "run", iter(range(1000)), FineTuning.training_step
    # Noise teaches nothing, so that the solved head which most recipes begin with would come back.
    monkeypatch.setattr(Change, "is_worse", False)

    def signalled(self: FineTuning, *args: object):
        if next(calls) == 2 * STEPS + 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, "training_step", signalled)
        with pytest.raises(Stopped):
            carry_out(recipe, folder, images, tmp_path)
    carry_out(recipe, folder, images, tmp_path)
    metrics, plan = (json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "plan"))
    assert metrics["epochs"] == EPOCHS
    assert metrics["frozen_verified"] in (True, None)
    record = json.loads((folder / "model" / "model.json").read_text())
    after = load_file(folder / "model" / "model.safetensors")
    prefixes = {name: tuple(record["stages"][name]) for name in record["stages"]}
    always = frozenset.intersection(*(frozenset(phase["frozen_stages"]) for phase in plan["phases"]))
    for stage, names in prefixes.items():
        held = [name for name in donor if any(name == p or name.startswith(f"{p}.") for p in names)]
        statistics = [name for name in held if name.endswith(("running_mean", "running_var"))]
        moved = {name for name in held if not torch.equal(donor[name], after[name])}
        if recipe in ("lora", "finetune"):  # freeze_bn=all in the latter
            assert not moved & set(statistics), stage
            assert moved or stage == "stem", stage
        elif stage in always:
            assert not moved, stage
        else:
            assert moved >= set(statistics), stage
    assert (always == set(prefixes)) is (recipe == "feature_extraction")
