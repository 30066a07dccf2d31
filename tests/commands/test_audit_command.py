"""`graft audit`: a wrong label, a copy in two parts and an unreadable file are said, in words and in a table."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from graft.commands.cli import dispatch
from graft.config.faults import InputError

KEYS = ("backbone=timm", "backbone.name=test_resnet", "data.image_size=32", "data.num_workers=0", "donor=file")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark images; one bright one among the dark, one picture in both parts, and a broken one."""
    root, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 6)):
        for name, level in (("bright", 200), ("dark", 40)):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(level - 40, level + 40, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    bright = generator.integers(160, 240, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(bright).save(root / "train" / "dark" / "wrong.png")
    (root / "val" / "dark" / "copy.png").write_bytes((root / "train" / "dark" / "0.png").read_bytes())
    (root / "train" / "dark" / "broken.png").write_bytes(b"no image")
    return root


def test_what_is_wrong_is_said(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "donor.safetensors")
    assert dispatch(["audit", str(pictures), *KEYS, "donor.path=donor.safetensors", "--csv", "audit.csv"]) == 0
    said = capsys.readouterr().out
    assert "broken.png" in said
    assert "copies    pairs in two parts 1, within a part 0, under two labels 0" in said
    with open(tmp_path / "audit.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 + 21 + 6 + 7
    first = rows[0]
    assert Path(first["path"]).name == "wrong.png"
    assert (first["part"], first["label"], first["proposal"]) == ("train", "dark", "bright")
    assert first["path"] in said


@pytest.mark.parametrize("words", [["seed=1"], ["one", "two"]])
def test_one_place_is_audited(words: list[str]) -> None:
    with pytest.raises(InputError, match="expected one folder of images or CSV file"):
        dispatch(["audit", *words])
