"""`python train.py mode=plan` with donors of every kind that a path can name: their account, and nothing done."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.transfer.test_donors_jax import DEPTH, HEADS, WIDTH, bit_name, vit_arrays

Train = Callable[..., subprocess.CompletedProcess[str]]

SMALL = ("backbone=timm", "backbone.name=test_efficientnet")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def weights() -> dict[str, torch.Tensor]:
    return timm.create_model("test_efficientnet").state_dict()


def run(folder: Path) -> list[str]:
    (folder / "model").mkdir()
    save_file(weights(), folder / "model" / "model.safetensors")
    (folder / "model" / "model.json").write_text("{}")
    return [*SMALL, "donor=run", f"donor.path={folder}"]


def vision_transformer(folder: Path) -> list[str]:
    np.savez(folder / "vit.npz", **vit_arrays())
    sizes = f"{{patch_size: 8, embed_dim: {WIDTH}, depth: {DEPTH}, num_heads: {HEADS}}}"
    return [
        "backbone=timm", "backbone.name=vit_tiny_patch16_224", f"backbone.kwargs={sizes}", "data.image_size=32",
        "donor=file", f"donor.path={folder / 'vit.npz'}",
    ]  # fmt: skip


def big_transfer(folder: Path) -> list[str]:
    with torch.device("meta"):
        shapes = {
            name: tuple(value.shape) for name, value in timm.create_model("resnetv2_50x1_bit").state_dict().items()
        }
    axes = {name: (*shape[2:], *shape[1::-1]) if len(shape) == 4 else shape for name, shape in shapes.items()}
    arrays = {f"resnet/{bit_name(name)}": np.zeros(shape, "float32") for name, shape in axes.items()}
    np.savez(folder / "bit.npz", **arrays)
    return ["backbone=timm", "backbone.name=resnetv2_50x1_bit", "donor=file", f"donor.path={folder / 'bit.npz'}"]


def local_dir(folder: Path) -> list[str]:
    save_file(weights(), folder / "model.safetensors")
    return [*SMALL, "donor=file", f"donor.path=local-dir:{folder}"]


def hub(folder: Path) -> list[str]:
    """As a download leaves it in HF_HOME."""
    cached = folder / "hub" / "models--owner--name"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT)
    (cached / "snapshots" / COMMIT).mkdir(parents=True)
    save_file(weights(), cached / "snapshots" / COMMIT / "model.safetensors")
    return [*SMALL, "donor=file", "donor.path=hf-hub:owner/name"]


def module(folder: Path) -> list[str]:
    (folder / "my_donor.py").write_text("import timm\ndef make(): return timm.create_model('test_efficientnet')\n")
    return [*SMALL, "donor=file", "donor.path=python:my_donor:make"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "format"),
    [
        (run, "safetensors"), (vision_transformer, "npz"), (big_transfer, "npz"), (local_dir, "safetensors"),
        (hub, "safetensors"), (module, "module"),
    ],
)  # fmt: skip
def test_the_plan_accounts_for_every_kind_of_donor(
    train: Train, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable, format: str
) -> None:
    folder = tmp_path / "donor"
    folder.mkdir()
    monkeypatch.setenv("HF_HOME", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
    done = train("mode=plan", "data=folder", f"data.root={images}", *make(folder), timeout=400)
    assert done.returncode == 0, done.stderr
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    fraction, digest = plan["ledger"]["parameters_transferred_fraction"], plan["donor"]["sha256"]
    assert plan["donor"]["format"] == format
    assert fraction > 0.75
    assert plan["ledger"]["excused"] == 2  # the donor's own head
    assert len(digest) == 64
    assert not (tmp_path / "run" / "transfer.json").exists()
