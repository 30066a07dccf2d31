"""An exported model opens in the plain library, without graft, and says how it came about."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from graft.config.faults import RunFailed
from graft.config.schema import HeadConfig, HeadKind, Library
from graft.inference.load import open_model
from graft.results.export import birth_certificate, separate_tensors
from graft.system.files import sha256

# What a person without graft writes, once for each library.
PLAIN = """
import json, sys
import torch
from safetensors.torch import load_file
images = torch.load(sys.argv[1])
for folder in sys.argv[2:]:
    build = json.load(open(folder + "/model.json"))["build"]
    if build["library"] == "torchvision":
        import torchvision
        model = torchvision.models.get_model(build["name"], num_classes=build["num_classes"], **build["kwargs"])
    else:
        import timm
        model = timm.create_model(build["name"], num_classes=build["num_classes"], **build["kwargs"])
    model.load_state_dict(load_file(folder + "/model.safetensors"), strict=True)
    torch.save(model.eval()(images).detach(), folder + "/logits.pt")
assert not [name for name in sys.modules if name.split(".")[0] == "graft"]
"""


def test_the_plain_libraries_give_the_same_logits(torchvision_model, timm_model, tmp_path):
    folders = [shutil.copytree(torchvision_model, tmp_path / "a"), shutil.copytree(timm_model, tmp_path / "b")]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.save(images, tmp_path / "images.pt")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = [sys.executable, "-c", PLAIN, *map(str, (tmp_path / "images.pt", *folders))]
    plain = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert plain.returncode == 0, plain.stderr
    for folder in folders:
        with torch.no_grad():
            expected = open_model(folder).module(images)
        assert expected.std() > 1e-3  # logits that say something
        torch.testing.assert_close(torch.load(folder / "logits.pt"), expected, atol=1e-5, rtol=0)


def test_the_record_tells_classes_preprocessing_donor_and_origin(timm_model):
    record = json.loads((timm_model / "model.json").read_text())
    assert record["format"] == 1
    assert record["weights"] == {"file": "model.safetensors", "sha256": sha256(timm_model / "model.safetensors")}
    assert record["build"]["name"] == "test_efficientnet"
    assert record["head"] == {"kind": "linear", "at": "classifier", "dropout": 0.0}
    assert record["classes"] == ["ant", "bee", "cicada"]
    assert record["heads"] == ["classifier"]
    assert record["stages"]["stem"] == ["conv_stem", "bn1"]
    assert record["preprocess"]["image_size"] == 64
    assert record["donor"] == {"source": "donor.pth", "sha256": "ab"}
    assert record["freeze"] == {"expression": "backbone"}
    assert (record["metrics"], record["command"]) == ({"val/accuracy": 0.5}, "python train.py")
    each = record["tensors"]["each"]
    assert each["conv_stem.weight"] == {"origin": "copied", "source": "conv_stem.weight", "trained": False}
    assert each["classifier.weight"] == {"origin": "initialized", "source": None, "trained": True}
    assert set(each) == set(load_file(timm_model / "model.safetensors"))
    assert sum(record["tensors"]["summary"].values()) == len(each)


def test_birth_certificate_counts_each_pair():
    ledger = {"tensors": [{"target": "a", "verdict": "copied", "source": "x.a"}]}
    told = birth_certificate(["a", "b"], ledger, frozen=["a"])
    assert told["summary"] == {"copied, untouched": 1, "unknown, trained": 1}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("view", torch.arange(12.0).view(3, 4).T[1:])  # a part of other memory, not contiguous


def test_tied_and_viewed_tensors_are_written_each_on_its_own(tmp_path):
    from graft.results.export import write_weights

    module = Tied()
    write_weights(separate_tensors(module), tmp_path / "model.safetensors")
    loaded = load_file(tmp_path / "model.safetensors")
    assert list(loaded) == sorted(module.state_dict())
    for name, value in module.state_dict().items():
        assert torch.equal(loaded[name], value)


def test_a_tied_tensor_of_the_module_stays_untouched():
    module = Tied()
    copies = separate_tensors(module)
    assert copies["first.weight"].data_ptr() != copies["second.weight"].data_ptr()


class Extra(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


def test_extra_state_is_refused():
    with pytest.raises(RunFailed, match="_extra_state"):
        separate_tensors(Extra(2, 2))


def test_exporting_again_leaves_no_record_beside_other_weights(tmp_path, monkeypatch, build_small, export_network):
    built = build_small(Library.timm, "test_efficientnet")
    folder = export_network(tmp_path / "model", built)
    with torch.no_grad():
        next(built.module.parameters()).add_(1)

    def no_disk(*_args: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("graft.results.export.write_json", no_disk)
    with pytest.raises(OSError, match="no space"):
        export_network(folder, built)
    assert not (folder / "model.json").exists()


def test_a_head_with_hidden_layers_comes_back(tmp_path, build_small, export_network):
    head = HeadConfig(kind=HeadKind.mlp, hidden=[16], dropout=0.5, norm="batch")
    built = build_small(Library.timm, "test_efficientnet", head)
    folder = export_network(tmp_path, built)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(open_model(folder).module(images), built.module.eval()(images))
