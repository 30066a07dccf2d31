"""Kept features are those of the network, whatever folding would make of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision import models

from graft.benchmark.composed import composed
from graft.benchmark.pictures import generated
from graft.data.datamodule import DataModule
from graft.data.datasets import load_table
from graft.models.network import network_for
from graft.plan import make_plan
from graft.precompute import compute_features
from graft.transfer import inject
from graft.transfer.chosen import open_chosen

ROOT = Path(__file__).resolve().parents[2]
NORM = "layer2.0.bn1"


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
    torch.save(state, tmp_path / "donor.pth")
    config = composed(
        "backbone=resnet18", "donor=file", f"donor.path={tmp_path / 'donor.pth'}", "data=folder", "freeze=layer1-3",
        f"data.root={generated(tmp_path / 'images', {'train': 4, 'val': 2}, size=(40, 40))}", "data.image_size=32",
        "data.num_workers=0", "cache=features", f"cache.dir={tmp_path / 'cache'}", "trainer.precision=32-true",
        "trainer.accelerator=cpu",
    )  # fmt: skip
    table = load_table(config.data)
    plan = make_plan(config, table, lambda: open_chosen(config))
    network = network_for(config, len(table.classes))
    with open_chosen(config) as donor:
        inject(plan.ledger, donor, network.module)
    data = DataModule(table, config.data, config.augment, network.preprocess, seed=config.seed, cache=config.cache)
    behind = compute_features(plan, network, data)
    said = "computed by the network as it is: cut: expected the same features from the folded prefix"
    assert (said in capsys.readouterr().out) is bool(mean)

    images = next(iter(DataModule(table, config.data, config.augment, network.preprocess, seed=0).val_dataloader()))
    features = next(iter(data.val_dataloader()))
    assert images["index"].equal(features["index"])
    with torch.no_grad():
        expected = network.module.eval()(images["image"])
        received = behind["layer3"].eval()(features["features"])
    assert received.numpy() == pytest.approx(expected.numpy(), abs=1e-4 * float(expected.abs().max()))
