"""Methods beside other options: what cannot be had together is answered before torch is imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graft.config import rules_methods

CONF = Path(__file__).resolve().parents[2] / "conf"

FaultsOf = Callable[..., dict[str, str]]
HALF = ("trainer.precision=16-mixed",)


@pytest.mark.parametrize(
    ("overrides", "key", "said"),
    [
        (["method.l2_sp=0.1", "donor=none", "freeze=none"], "method.l2_sp", "there is no donor to be drawn to"),
        (["method.l2_sp=0.1", "method.lora=4"], "method.l2_sp", "under which the donor's weights do not move"),
        (["method.ema=1"], "method.ema", "more than 0 and less than 1"),
        (["method.distill=1"], "method.distill", "freeze=backbone, under which the donor's outputs cannot change"),
        (["method.distill=1", "freeze=none", "donor=none"], "method.distill", "no outputs to keep"),
        (["method.distill=1", "freeze=none", "donor.class_map=names"], "method.distill", "rows of the donor's head"),
        (["method.distill=1", "freeze=stem", "cache=features"], "method.distill", "must see the images"),
        (["method.distill=1", "freeze=none", "trainer.compile=true"], "method.distill", "trainer.compile"),
        (["method.distill_temperature=4"], "method.distill_temperature", "where it has no effect"),
        (["method.bitfit=true"], "method.bitfit", "no bias or norm of the backbone left to train"),
        (["method.bitfit=true", "method.lora=2"], "method.bitfit", "false with method.lora"),
        (["method.lora=2", "freeze=none"], "method.lora", "freeze=backbone and unfreeze=never, as"),
        (["method.lora=2", "unfreeze=lp_ft"], "method.lora", "received freeze=backbone and unfreeze=lp_ft"),
        (["method.lora_alpha=2"], "method.lora_alpha", "try method.lora=8"),
        (["method.lora_targets=[layer4]"], "method.lora_targets", "where it has no effect"),
        (["augment.mixup=0.2", "cache=features", "cache.views=2"], "cache", "no mixing of images before the cut"),
        (["augment.mix_per=sample"], "augment.mix_per", "without mixup and cutmix"),
        (["augment.mixup=0.2", "augment.mix_per=image"], "augment.mix_per", "one of batch, sample"),
        (["data.balanced=true", "loss.class_weights=balanced"], "loss.class_weights", "drawn equally often already"),
        (["backbone.drop_path=0.1"], "backbone.drop_path", "where it has no effect"),
        (["trainer=fsdp", "trainer.accelerator=cpu"], "trainer.strategy", "as fsdp shares weights out over GPUs"),
        (["trainer=fsdp", "method.ema=0.9"], "method.ema", "no process has whole weights"),
        (["trainer=fsdp", "trainer.clip_norm=1"], "trainer.clip_norm", "no process has whole weights"),
        (["trainer.compile=true", "trainer.recompute=true"], "trainer.recompute", "chooses by itself what is computed"),
        (["trainer.tune=auto", "trainer=ddp", "trainer.devices=2"], "trainer.tune", "received auto with 2 processes"),
        (["optimizer.lr=find", "trainer=ddp", "trainer.num_nodes=2"], "optimizer.lr", "received find with 4 processes"),
        (
            ["optimizer.no_decay=[fc.weight]", "optimizer.weight_decay=0"],
            "optimizer.no_decay",
            "where it has no effect",
        ),
        (["+optimizer.kwargs.fused=true", *HALF, "trainer.clip_norm=1"], "optimizer.kwargs", "leave fused out"),
    ],
)
def test_what_does_not_go_together_is_answered(overrides: list[str], key: str, said: str, faults_of: FaultsOf) -> None:
    faults = faults_of(*overrides)
    assert list(faults) == [key]
    assert said in faults[key]


def test_what_goes_together_is_taken(faults_of: FaultsOf) -> None:
    assert not faults_of("method.lora=8", "method.lora_alpha=16", "method.ema=0.99", "backbone.drop_path=0.1")
    assert not faults_of("method.l2_sp=0.1", "method.distill=1", "freeze=none", "augment.mixup=0.2", "augment.cutmix=1")
    assert not faults_of("+optimizer.kwargs.fused=true", "trainer.precision=bf16-mixed", "trainer.clip_norm=1")
    assert not faults_of("+optimizer.kwargs.fused=true", *HALF)
    assert not faults_of("+optimizer.kwargs.fused=false", *HALF, "trainer.clip_norm=1")
    assert not faults_of("method.bitfit=true", "freeze=none", "method.ema=0.99", "unfreeze=never")


def test_a_missing_package_is_answered_with_the_line_to_type(
    monkeypatch: pytest.MonkeyPatch, faults_of: FaultsOf
) -> None:
    monkeypatch.setattr(rules_methods, "find_spec", lambda name: None)
    assert faults_of("method.lora=8") == {
        "method.lora": "method.lora: expected the package peft, received a Python without it; try pip install peft"
    }
