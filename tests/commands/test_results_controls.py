"""`graft controls`: what each control changes of the run's command, and what it never does."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graft.commands.controls import control_overrides, is_linear_probe
from graft.commands.controls import run as controls_command
from graft.config.faults import InputError
from tests.run_folder import write_run

OVERRIDES = [
    "backbone=resnet50", "seed=3", "donor=file", "donor.path=x.pth", "donor.sha256=ab", "freeze=layer1-3", "mode=train",
    "unfreeze=gradual", "unfreeze.every=2 epochs", "optimizer.lr=0.01", "+optimizer.lr_scale.layer4=0.1",
    "head=mlp", "head.hidden=[64]", "resume=never", "freeze_bn=all",
]  # fmt: skip


def test_random_weights_keep_everything_but_donor_and_freeze():
    assert control_overrides(OVERRIDES, {}, "random_init") == [
        "backbone=resnet50", "seed=3", "optimizer.lr=0.01", "+optimizer.lr_scale.layer4=0.1", "head=mlp",
        "head.hidden=[64]", "donor=none", "freeze=none", "unfreeze=never",
    ]  # fmt: skip


def test_a_linear_probe_keeps_the_donor_and_trains_a_linear_head():
    settings = {"optimizer.lr_scale.layer4": 0.1, "optimizer.lr_scale.head": 2.0}
    assert control_overrides(OVERRIDES, settings, "linear_probe") == [
        "backbone=resnet50", "seed=3", "donor=file", "donor.path=x.pth", "donor.sha256=ab", "optimizer.lr=0.01",
        "freeze_bn=all", "head=linear", "freeze=backbone", "unfreeze=never", "++optimizer.lr_scale.head=2.0",
    ]  # fmt: skip


def test_what_an_experiment_file_set_gives_way_too():
    settings = {
        "donor.kind": "file",
        "donor.path": "it's.pth",
        "donor.match": "structure",
        "unfreeze.every": "3 epochs",
    }
    assert control_overrides(["experiment=mine", "cache=features", "cache.dtype=float16"], settings, "random_init") == [
        "experiment=mine", "cache=features", "cache.dtype=float16", "donor=none", "freeze=none", "unfreeze=never",
        "unfreeze.every='1 epoch'", "donor.path=null", "donor.match='name'",
    ]  # fmt: skip
    cached = control_overrides(["cache=features", "cache.dtype=float16"], {"cache.kind": "features"}, "random_init")
    assert cached == ["donor=none", "freeze=none", "unfreeze=never", "cache=none"]


def test_methods_that_hold_to_the_donor_or_train_beside_it_are_taken_back():
    given = ["method.l2_sp=0.1", "method.ema=0.99", "backbone.drop_path=0.1"]
    settings = {"method.l2_sp": 0.1, "method.ema": 0.99, "backbone.drop_path": 0.1}
    assert control_overrides(given, settings, "random_init") == [
        "method.ema=0.99", "backbone.drop_path=0.1", "donor=none", "freeze=none", "unfreeze=never", "method.l2_sp=0.0",
    ]  # fmt: skip
    assert control_overrides(given, settings, "linear_probe") == [
        "method.ema=0.99", "head=linear", "freeze=backbone", "unfreeze=never", "backbone.drop_path=null",
        "method.l2_sp=0.0",
    ]  # fmt: skip
    lora = {"method.lora": 8, "method.lora_targets": ["layer4.*"], "method.bitfit": True, "method.distill": 1.0}
    for name in ("random_init", "linear_probe"):
        assert control_overrides(["experiment=lora"], lora, name)[4:] == [
            "method.distill=0.0", "method.bitfit=false", "method.lora=null", "method.lora_targets=[]"
        ]  # fmt: skip


def test_random_weights_have_no_head_on_frozen_blocks():
    given, settings = ["head=stages", "head.taps=stage", "seed=3"], {"head.kind": "stages", "head.taps": "stage"}
    assert control_overrides(given, settings, "random_init") == [
        "seed=3", "donor=none", "freeze=none", "unfreeze=never", "head=linear", "head.taps=block",
    ]  # fmt: skip


def test_a_linear_probe_is_known_as_one():
    probe = {"head.kind": "linear", "freeze": "backbone", "unfreeze.kind": "never"}
    assert is_linear_probe(probe)
    assert not is_linear_probe({**probe, "freeze": "layer1"})
    assert not is_linear_probe({**probe, "method.lora": 8})
    assert not is_linear_probe({**probe, "unfreeze.kind": "lp_ft"})


def test_an_unfinished_run_is_refused(tmp_path):
    run = write_run(tmp_path / "run", pictures=False, settings={"seed": 0})
    (run / "metrics.json").unlink()
    with pytest.raises(InputError, match="expected a finished run"):
        controls_command(SimpleNamespace(run=str(run), only=None, import_code=False))


@pytest.mark.parametrize(
    "named",
    [
        {"head": {"target": "package:Head"}},
        {"callbacks": {"a": {"_target_": "package:Callback"}}},
        {"donor": {"path": "python:package:build"}},
    ],
)
def test_a_run_that_names_code_is_repeated_with_leave_alone(tmp_path: Path, named: dict[str, Any]) -> None:
    run = write_run(tmp_path / "run", pictures=False, settings=named)
    with pytest.raises(InputError, match="would import and run; try --import-code"):
        controls_command(SimpleNamespace(run=str(run), only=None, import_code=False))


@pytest.mark.parametrize("word", ["+loss.target=package:loss", "callbacks={a: {_target_: b:C}}", "hydra.callbacks.a=1"])
def test_the_words_of_its_command_count_too(tmp_path: Path, word: str) -> None:
    run = write_run(tmp_path / "run", pictures=False)
    (run / ".hydra" / "overrides.yaml").write_text(f'- "{word}"\n', encoding="utf-8")
    with pytest.raises(InputError, match="would import and run; try --import-code"):
        controls_command(SimpleNamespace(run=str(run), only=None, import_code=False))
