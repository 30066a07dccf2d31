"""Small networks with weights that are nobody's defaults, exported once for all tests of this room."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graft.commands.cli import main
from graft.config.schema import BackboneConfig, HeadConfig, HeadKind, Library
from graft.models.network import Network, build_network
from graft.results.export import export

CLASSES = ("ant", "bee", "cicada")
LEDGER = {
    "tensors": [
        {"target": "conv_stem.weight", "verdict": "copied", "source": "conv_stem.weight"},
        {"target": "classifier.weight", "verdict": "initialized", "source": None},
    ]
}


def network(library: Library, name: str, head: HeadConfig | None = None, **backbone) -> Network:
    config = BackboneConfig(library=library, name=name, **backbone)
    built = build_network(config, head or HeadConfig(kind=HeadKind.linear), num_classes=3, image_size=64, seed=3)
    with torch.no_grad():
        for value in built.module.state_dict().values():
            if value.is_floating_point():
                value.add_(0.02 * torch.rand_like(value))
    return built


def export_small(folder: Path, built: Network, **kwargs) -> Path:
    told = {"donor": {"source": "donor.pth", "sha256": "ab"}, "freeze": {"expression": "backbone"}}
    export(built, folder, classes=CLASSES, **told, **kwargs)
    return folder


@pytest.fixture(scope="session")
def build_small() -> Callable[..., Network]:
    return network


@pytest.fixture(scope="session")
def export_network() -> Callable[..., Path]:
    return export_small


@pytest.fixture(scope="session")
def torchvision_model(tmp_path_factory) -> Path:
    built = network(Library.torchvision, "mobilenet_v3_small")
    return export_small(tmp_path_factory.mktemp("torchvision") / "model", built)


@pytest.fixture(scope="session")
def timm_model(tmp_path_factory) -> Path:
    built = network(Library.timm, "test_efficientnet")
    folder = tmp_path_factory.mktemp("timm") / "model"
    told = {"ledger": LEDGER, "metrics": {"val/accuracy": 0.5}, "command": "python train.py"}
    return export_small(folder, built, frozen=("conv_stem.weight",), **told)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Six PNGs of noise, each its own, below a folder and a subfolder."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    generator = np.random.default_rng(0)
    for k in range(6):
        place = folder / "more" if k > 3 else folder
        Image.fromarray(generator.integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(place / f"{k}.png")
    return folder


@pytest.fixture
def graft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """graft("inspect", path) gives the command's exit code, what it printed and what it complained of."""

    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["graft", *map(str, words)])
        code = main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return command
