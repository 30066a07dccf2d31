"""The model card says what the record says, and every export carries the record."""

import json
import re
from types import SimpleNamespace

import pytest

from graft.commands.export import run as export_command
from graft.config.choices import DonorKind, Library
from graft.config.schema import BackboneConfig, Config, DonorConfig, PublishedConfig
from graft.results.card import model_card
from graft.system.files import sha256, write_json
from graft.transfer.donors.published import licence_of

RECORD = {
    "made_by": "graft 0.1.0",
    "weights": {"file": "model.safetensors"},
    "build": {"library": "timm", "name": "tiny_net"},
    "head": {"kind": "linear"},
    "classes": ["fine", "<b>*bad*</b> | x"],
    "preprocess": {
        "image_size": 64, "channels": 3, "crop_fraction": 0.875, "interpolation": "bicubic", "mean": [0.5, 0.25, 0.125],
        "std": [1, 1, 1], "reduced_jpeg": True,
    },
    "data": {"kind": "folder", "parts": {"train": {"fine": 1200, "<b>*bad*</b> | x": 34}}, "skipped": [{"path": "x"}]},
    "donor": {"source": "donor.pth", "format": "torch", "sha256": "abc", "licence": "apache-2.0"},
    "freeze": {
        "expression": "backbone",
        "unfreeze": "gradual",
        "phases": [
            {"start_epoch": 0, "start_step": 0, "frozen_stages": ["stem", "layer1"]},
            {"start_epoch": 1.5, "start_step": 1500, "frozen_stages": []},
        ],
        "verified": True,
    },
    "metrics": {"test/accuracy": 0.75, "test/loss": 0.5},
    "intervals": {"test/accuracy": {"low": 0.7, "high": 0.8, "method": "Wilson"}},
    "command": "python train.py seed=1",
    "tensors": {"summary": {"copied, untouched": 294, "initialized, trained": 2}},
}  # fmt: skip


def test_it_says_what_the_record_says():
    card = model_card(RECORD)
    for expected in (
        "library_name: timm", "one of 2 classes", "| size | 64 × 64 pixels, 3 channels |", "0.5, 0.25, 0.125",
        "| large JPEGs | decoded at 1/2, 1/4 or 1/8",
        "| all | 1,234 |", "1 unreadable files were left out.", "| SHA-256 | `abc` |", "| licence | apache-2.0 |",
        "| 0 | 0 | stem, layer1 |", "| 1.5 | 1,500 | nothing |", "Proven by hash",
        "| test | accuracy | 0.7500 | 0.7000 to 0.8000 | Wilson |", "| test | loss | 0.5000 | – | – |",
        "python train.py seed=1",
        "| 294 | copied | the donor's values under the same name | untouched |",
        "| 2 | initialized | fresh: from no donor | trained |",
    ):  # fmt: skip
        assert expected in card, expected


def test_altered_layers_are_told_by_what_they_are_set_to():
    assert "Altered" not in model_card(RECORD)
    altered = {f"block{number}.conv": {"stride": 2, "padding": "same"} for number in range(1, 6)}
    build = {**RECORD["build"], "altered": {**altered, "pool_1": {"border": "left_out"}}}
    card = model_card({**RECORD, "build": build})
    assert "not set as timm's model of that name has them" in card
    assert "| stride: 2, padding: same | 5 | block1.conv, block2.conv, block3.conv, … |" in card
    assert r"| border: left\_out | 1 | pool\_1 |" in card


def test_names_stay_text_and_keep_the_tables_whole():
    card = model_card(RECORD)
    assert r"&lt;b>\*bad\*&lt;/b> \| x" in card
    assert "<b>" not in card
    for block in re.findall(r"(?:^\|.*\n)+", card, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_what_is_unknown_is_said_to_be():
    card = model_card({**RECORD, "donor": {"source": "x.pth"}, "freeze": {"verified": False}, "metrics": {}})
    assert "| licence | not stated by its source |" in card
    assert "The proof failed" in card
    assert "## Metrics" not in card
    assert "graft.load" in card
    assert "graft.load" not in model_card({**RECORD, "weights": {"file": "model.onnx"}})


def export(model, format, output):
    words = SimpleNamespace(model=[model], format=format, output=output, import_code=False, logits=False)
    assert export_command(words) == 0


@pytest.mark.parametrize(("format", "name"), [("safetensors", ""), ("timm", ""), ("torch-export", "m.pt2")])
def test_every_export_has_its_card_and_birth_certificate(timm_model, tmp_path, format, name):
    path = tmp_path / "out" / name if name else tmp_path / "out"
    export(str(timm_model), format, str(path))
    weights = path if name else path / "model.safetensors"
    record = json.loads((path.with_name(f"{name}.json") if name else path / "model.json").read_text())
    assert record["weights"] == {"file": weights.name, "sha256": sha256(weights)}
    assert record["tensors"]["each"]["conv_stem.weight"]["origin"] == "copied"
    card = (path.with_name(f"{name}.md") if name else path / "README.md").read_text(encoding="utf-8")
    assert card == model_card(record)
    assert "| 1 | copied | the donor's values under the same name | untouched |" in card


def chosen(kind, **backbone):
    config = Config(donor=DonorConfig(kind=kind), backbone=BackboneConfig(**backbone))
    config.donor.path = backbone.pop("path", None)
    return config


def licence(config):
    return licence_of(config.donor, config.backbone)


def test_licence_is_its_publisher_s_or_none(tmp_path):
    timm = {"library": Library.timm, "name": "resnet18"}
    assert licence(chosen(DonorKind.pretrained, **timm)) == "apache-2.0"
    packaged = PublishedConfig(package="safetensors", file="x")
    assert "Apache" in str(licence(chosen(DonorKind.pretrained, **timm, published=packaged)))
    assert licence(chosen(DonorKind.pretrained, library=Library.torchvision, name="resnet18")) is None
    assert licence(chosen(DonorKind.file, **timm)) is None
    of_run = chosen(DonorKind.run, **timm)
    of_run.donor.path = str(tmp_path)
    assert licence(of_run) is None
    write_json(tmp_path / "model.json", {"donor": {"licence": "mit"}})
    assert licence(of_run) == "mit"
    for damaged in ("{", "[]", '{"donor": "x"}'):
        (tmp_path / "model.json").write_text(damaged)
        assert licence(of_run) is None
