"""`graft embed`: files that numpy and pyarrow read back, and what cannot be read is told."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from graft.inference.images import load


def test_npz_and_parquet_hold_the_same(graft: Any, timm_model: Path, pictures: Path, tmp_path: Path) -> None:
    code, out, err = graft("embed", timm_model, pictures, "--out", tmp_path / "e.npz")
    assert (code, out, err) == (0, f"6 embeddings of 256 values: {tmp_path / 'e.npz'}\n", "")
    assert graft("embed", timm_model, pictures, "--out", tmp_path / "e.parquet", "--batch-size", 4)[0] == 0
    arrays, table = np.load(tmp_path / "e.npz"), parquet.read_table(tmp_path / "e.parquet")
    assert list(arrays["path"]) == table["path"].to_pylist() == sorted(map(str, pictures.rglob("*.png")))
    assert np.allclose(np.array(table["embedding"].to_pylist()), arrays["embedding"], atol=1e-6)
    model: Any = load(timm_model)
    assert np.allclose(model.embed(pictures).numpy(), arrays["embedding"], atol=1e-6)


def test_an_unreadable_image_is_left_out_and_told(graft: Any, timm_model: Path, pictures: Path, tmp_path: Path) -> None:
    code, _, err = graft("embed", timm_model, pictures / "0.png", "nowhere.png", "--out", tmp_path / "e.npz")
    assert code == 1
    assert err == "graft embed: nowhere.png (no such file)\n"
    assert list(np.load(tmp_path / "e.npz")["path"]) == [str(pictures / "0.png")]


def test_parquet_without_its_package_is_told(
    graft: Any, timm_model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = graft("embed", timm_model, pictures, "--out", tmp_path / "e.parquet")
    assert code == 2
    assert "expected the package pyarrow for Parquet, received none; try pip install 'graft-transfer[parquet]'" in err
    assert graft("embed", timm_model, pictures, "--out", tmp_path / "e.csv")[0] == 2
