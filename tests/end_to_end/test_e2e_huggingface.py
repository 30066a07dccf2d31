"""README's command with a folder that transformers saved: trained, accounted for, its images as the donor saw them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

Command = Callable[..., "subprocess.CompletedProcess[str]"]
KWARGS = "backbone.kwargs={patch_size:8,embed_dim:32,depth:2,num_heads:2,mlp_ratio:2}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=9)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "donor")
    processor = {
        "size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4],
    }  # fmt: skip
    (tmp_path / "donor" / "preprocessor_config.json").write_text(json.dumps(processor))
    return tmp_path / "donor"


def test_a_run_on_a_folder_of_hugging_faces(train: Command, images: Path, folder: Path, tmp_path: Path) -> None:
    done = train(
        "donor=file", f"donor.path={folder}", "backbone=timm", "backbone.name=vit_tiny_patch16_224", KWARGS,
        "data=folder", f"data.root={images}", "data.num_workers=0", "trainer.max_epochs=1",
        f"hydra.run.dir={tmp_path}/run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ledger = json.loads((tmp_path / "run" / "transfer.json").read_text())
    entry = next(each for each in ledger["tensors"] if each["target"] == "blocks.0.attn.qkv.weight")
    assert (entry["verdict"], len(entry["sources"])) == ("adapted", 3)
    assert "join: W' = [query; key; value]" in entry["rule"]
    excused = {each["source"]: each["reason"] for each in ledger["donor_tensors"] if each["status"] == "excused"}
    assert set(excused) == {"classifier.weight", "classifier.bias"}
    assert any("eps is 1e-12 in the donor" in remark for remark in ledger["remarks"])
    preprocess = json.loads((tmp_path / "run" / "model" / "model.json").read_text())["preprocess"]
    assert (preprocess["image_size"], preprocess["crop_fraction"]) == (32, 1.0)
    assert (preprocess["mean"], preprocess["std"]) == ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    assert preprocess["interpolation"] == "bilinear"


def test_inspect_lists_a_folder_of_hugging_faces(folder: Path) -> None:
    code = "import sys; from graft.commands.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "inspect", str(folder), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "the names are Hugging Face's, of a vision transformer" in found["remarks"]
    assert len(found["tensors"]) == 40
