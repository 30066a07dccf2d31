"""The main job on real input: ImageNet weights, solar cells, resulting weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Train = Callable[..., subprocess.CompletedProcess[str]]

PLAIN_TIMM = """
import json, sys
import timm, torch
from safetensors.torch import load_file

folder, probe, out = sys.argv[1:]
record = json.load(open(folder + "/model.json"))
model = timm.create_model(record["build"]["name"], num_classes=len(record["classes"]), **record["build"]["kwargs"])
model.load_state_dict(load_file(folder + "/model.safetensors"), strict=True)
with torch.inference_mode():
    torch.save(model.eval()(torch.load(probe)), out)
assert "graft" not in sys.modules
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One frozen run on all 2,624 cells, at 64 pixels to be quick."""
    folder = tmp_path_factory.mktemp("main") / "run"
    command = [
        sys.executable,
        "train.py",
        "data.image_size=64",
        "head.solver=sgd",
        "trainer.max_epochs=8",
        f"hydra.run.dir={folder}",
    ]
    command += [f"cache.dir={folder.parent / 'cache'}"]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600, check=False
    )
    return folder, done


def test_the_main_job_ends_well_and_leaves_every_file_of_the_contract(finished):
    folder, done = finished
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert done.stderr.count("epoch ") == 8
    for name in (
        ".hydra/config.yaml", "plan.json", "transfer.json", "metrics.json", "metrics.csv", "predictions.csv",
        "checkpoints/last.ckpt", "checkpoints/best.ckpt", "model/model.safetensors", "model/model.json", "report.html",
    ):  # fmt: skip
        assert (folder / name).is_file(), name
    assert str(folder) in done.stdout


def test_the_metrics_say_what_was_learnt(finished):
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    assert metrics["frozen_verified"] is True
    assert metrics["test/accuracy"] >= 0.70  # 64 pixels; the majority class alone gives 0.69
    assert metrics["epochs"] == 8
    assert set(metrics["seconds"]) >= {"import", "build", "transfer", "data", "cache", "fit", "export"}


def test_every_trunk_tensor_came_from_the_donor(finished):
    ledger = json.loads((finished[0] / "transfer.json").read_text())
    assert ledger["donor"]["sha256"].startswith("57934424")
    verdicts = {entry["target"]: entry["verdict"] for entry in ledger["tensors"]}
    assert {name for name, verdict in verdicts.items() if verdict == "initialized"} == {
        "classifier.weight",
        "classifier.bias",
    }
    assert len(verdicts) == 296
    assert all(entry["status"] in ("used", "excused") for entry in ledger["donor_tensors"])


def test_the_checkpoint_holds_tensors_and_primitives_only(finished):
    for name in ("last", "best"):
        torch.load(finished[0] / "checkpoints" / f"{name}.ckpt", weights_only=True)


def test_plain_timm_loads_the_result_strictly_and_computes_the_same(finished, tmp_path):
    import graft

    model = graft.load(finished[0])
    probe = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.save(probe, tmp_path / "probe.pt")
    script = tmp_path / "plain.py"
    script.write_text(PLAIN_TIMM)
    arguments = [sys.executable, script, finished[0] / "model", tmp_path / "probe.pt", tmp_path / "logits.pt"]
    subprocess.run([str(part) for part in arguments], check=True, timeout=120)
    with torch.inference_mode():
        torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), model(probe), atol=1e-5, rtol=0)
    assert model.classes == ("functional", "defective")


def test_plan_prints_and_stops(train: Train, tmp_path: Path):
    done = train("mode=plan")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".hydra", "plan.json"]
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["stages"][0]["name"] == "stem"
    assert plan["parameters"]["trainable"] == 1280 * 2 + 2
    for word in ("stem", "head", "solved", "trainable", "cache"):
        assert word in done.stdout
