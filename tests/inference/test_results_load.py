"""graft.load opens what a run left behind, and says what is wrong with what it did not."""

import json
import shutil

import pytest
import torch
from PIL import Image
from torch import nn

import graft
from graft.config.faults import InputError
from graft.config.schema import HeadConfig, HeadKind, Library
from graft.data.images import decode
from graft.data.transforms import eval_transform


class DoubleHead(nn.Module):
    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.last = nn.Linear(in_features, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.last(x)


OTHER = {"library": "timm", "name": "test_efficientnet_gn", "kwargs": {}, "num_classes": 3, "channels": 3}


@pytest.fixture
def copy(timm_model, tmp_path):
    return shutil.copytree(timm_model, tmp_path / "run" / "model")


def test_a_run_a_model_folder_and_a_file_open_alike(copy):
    names = [sorted(graft.load(path).state_dict()) for path in (copy.parent, copy, copy / "model.safetensors")]
    assert names[0] == names[1] == names[2]


def test_it_is_ready_to_use(copy, pictures):
    model = graft.load(copy)
    assert model.classes == ("ant", "bee", "cicada")
    assert not model.training
    assert not any(module.training for module in model.modules())
    path = pictures / "0.png"
    prepared = model.preprocess(path)
    assert prepared.shape == (3, 64, 64)
    assert prepared.dtype == torch.float32
    assert torch.equal(prepared, eval_transform(model.preprocess.settings)(decode(str(path), 3)))
    assert torch.equal(prepared, model.preprocess(Image.open(path)))
    assert model(prepared[None]).shape == (1, 3)


def test_a_file_that_is_no_image_is_an_input_error(copy, tmp_path):
    (tmp_path / "notes.jpg").write_text("not an image")
    with pytest.raises(InputError, match=r"notes\.jpg"):
        graft.load(copy).preprocess(tmp_path / "notes.jpg")


def edit(folder, **changes):
    record = json.loads((folder / "model.json").read_text())
    record.update(changes)
    (folder / "model.json").write_text(json.dumps(record))


def drop_byte(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "model.json").unlink(), "expected a run's folder"),
        (lambda f: (f / "model.json").write_text("{"), "expected JSON"),
        (lambda f: (f / "model.json").write_text("[]"), "expected a model's record"),
        (lambda f: (f / "model.safetensors").unlink(), "expected the model's weights"),
        (drop_byte, "sha256"),
        (lambda f: edit(f, format=99), "expected format 1, received 99"),
        (lambda f: edit(f, build=None), "no usable build"),
        (lambda f: edit(f, build={"library": "timm"}), "expected name, received none .under build"),
        (lambda f: edit(f, build=OTHER), "39 unknown"),
        (lambda f: edit(f, preprocess={"image_size": 64}), "expected crop_fraction, received none .under preprocess"),
    ],
)  # fmt: skip
def test_damage_is_named(copy, damage, said):
    damage(copy)
    with pytest.raises(InputError, match=said):
        graft.load(copy)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_nothing_there(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected a run's folder"):
        graft.load(tmp_path / name)


def test_a_custom_head_is_imported_only_when_asked(tmp_path, build_small, export_network, monkeypatch):
    monkeypatch.setitem(
        __import__("sys").modules, "own_heads", __import__("types").SimpleNamespace(DoubleHead=DoubleHead)
    )
    head = HeadConfig(kind=HeadKind.custom, target="own_heads.DoubleHead")
    built = build_small(Library.timm, "test_efficientnet", head)
    folder = export_network(tmp_path, built)
    with pytest.raises(InputError, match=r"own_heads\.DoubleHead"):
        graft.load(folder)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(graft.load(folder, import_code=True)(images), built.module.eval()(images))
