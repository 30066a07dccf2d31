"""Kept features of a user's own layers are not taken for those of changed code."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import timm
from torch import nn

from graft.models.fingerprint import structure_hash

LAYER = """
from torch import nn

class Scaled(nn.Linear):
    def forward(self, input):
        return super().forward(input) * {factor}
"""


def scaled(place: Path, factor: int, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    (place / "scaled_layers.py").write_text(LAYER.format(factor=factor), encoding="utf-8")
    monkeypatch.delitem(sys.modules, "scaled_layers", raising=False)
    importlib.invalidate_caches()
    return nn.Sequential(importlib.import_module("scaled_layers").Scaled(2, 2))


def test_changed_code_of_a_layer_changes_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first = structure_hash(scaled(tmp_path, 2, monkeypatch))
    assert structure_hash(scaled(tmp_path, 2, monkeypatch)) == first
    assert structure_hash(scaled(tmp_path, 3, monkeypatch)) != first


def test_a_librarys_model_has_the_hash_of_before() -> None:
    import hashlib

    module = timm.create_model("test_resnet", num_classes=2)
    assert structure_hash(module) == hashlib.sha256(repr(module).encode()).hexdigest()
