"""graft export: what other tools open gives the same logits."""

import argparse
import subprocess
import sys

import pytest
import timm
import torch
import torchvision

from graft.commands import export as formats
from graft.config.faults import InputError, RunFailed
from graft.config.schema import HeadConfig, HeadKind, Library
from graft.inference.images import load
from graft.inference.load import open_model
from graft.results.agree import check_same


@pytest.fixture
def export_as(tmp_path):
    def run(folder, name: str, *more: str):
        parser = argparse.ArgumentParser()
        formats.configure(parser)
        output = tmp_path / f"exported{formats.WRITERS[name][0]}"
        assert formats.run(parser.parse_args([str(folder), "--format", name, "--output", str(output), *more])) == 0
        return output

    return run


@pytest.fixture
def images():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(4))


def logits(model, images):
    with torch.no_grad():
        return model.eval()(images)


def test_safetensors_folder_opens_again(timm_model, export_as, images):
    again = export_as(timm_model, "safetensors")
    assert torch.equal(logits(load(again), images), logits(load(timm_model), images))
    assert load(again).classes == load(timm_model).classes


def test_torchvision_loads_the_file_strictly(torchvision_model, export_as, images):
    model = torchvision.models.mobilenet_v3_small(num_classes=3)
    model.load_state_dict(torch.load(export_as(torchvision_model, "torchvision"), weights_only=True), strict=True)
    torch.testing.assert_close(logits(model, images), logits(load(torchvision_model), images), atol=1e-5, rtol=0)


def test_timm_opens_the_folder(timm_model, export_as, images):
    folder = export_as(timm_model, "timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    torch.testing.assert_close(logits(model, images), logits(load(timm_model), images), atol=1e-5, rtol=0)
    settings = load(timm_model).preprocess.settings
    seen = timm.data.resolve_model_data_config(model)
    assert (list(seen["input_size"]), seen["crop_pct"]) == ([3, 64, 64], settings.crop_fraction)
    assert (tuple(seen["mean"]), tuple(seen["std"])) == (settings.mean, settings.std)
    assert model.pretrained_cfg["label_names"] == ["ant", "bee", "cicada"]


@pytest.mark.slow
def test_torch_export_runs_at_any_batch_size(timm_model, export_as, images):
    program = torch.export.load(export_as(timm_model, "torch-export", "--logits")).module()
    for count in (1, 2, 3):
        expected = logits(load(timm_model), images[:count])
        torch.testing.assert_close(program(images[:count]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("wrong", [1, 3])
def test_an_export_that_differs_at_either_batch_size_is_not_written(timm_model, wrong):
    opened = open_model(timm_model)
    with pytest.raises(RunFailed, match=f"a difference of 0.01.* for {wrong} images; nothing was written"):
        check_same(opened, lambda images: opened.module(images) + 0.01 * (len(images) == wrong), "onnx")


def test_a_model_is_not_written_over_itself(timm_model):
    opened = open_model(timm_model)
    before = (timm_model / "model.json").read_bytes()
    for write in (formats.write_safetensors, formats.write_timm):
        with pytest.raises(InputError, match="expected another folder than the model's own"):
            write(opened, timm_model)
    assert (timm_model / "model.json").read_bytes() == before


def test_another_library_and_another_head_are_refused(
    torchvision_model, tmp_path, build_small, export_network, export_as
):
    with pytest.raises(InputError, match="try --format torchvision"):
        export_as(torchvision_model, "timm")
    head = HeadConfig(kind=HeadKind.mlp, hidden=[8])
    folder = export_network(tmp_path / "mlp", build_small(Library.timm, "test_efficientnet", head))
    with pytest.raises(InputError, match="head=mlp"):
        export_as(folder, "timm")


def test_blocks_pooled_under_one_layer_go_where_no_library_is_needed(tmp_path, build_small, export_network, export_as):
    """head=stages: the program gives the same logits; a plain model and Keras cannot hold it, which is said."""
    built = build_small(Library.timm, "test_efficientnet", HeadConfig(kind=HeadKind.stages))
    folder = export_network(tmp_path / "stages", built)
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    expected = logits(built.module, images)
    assert torch.equal(logits(load(folder), images), expected)
    program = torch.export.load(export_as(folder, "torch-export", "--logits")).module()
    torch.testing.assert_close(program(images), expected, atol=1e-4, rtol=0)
    assert "No plain test_efficientnet loads these weights" in (folder / "README.md").read_text()
    with pytest.raises(InputError, match="received head=stages, which no plain test_efficientnet has"):
        export_as(folder, "timm")
    with pytest.raises(InputError, match=r"expected a network of layers that Keras has.*try --format onnx"):
        export_as(folder, "keras")


def test_a_file_where_a_folder_would_stand(timm_model, tmp_path):
    parser = argparse.ArgumentParser()
    formats.configure(parser)
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="expected a folder"):
        formats.run(parser.parse_args([str(timm_model), "--format", "timm", "--output", str(tmp_path / "taken")]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [HeadKind.linear, HeadKind.stages])
def test_onnx_runs_at_any_batch_size(kind, build_small, export_network, tmp_path, images):
    import onnxruntime

    built = build_small(Library.timm, "test_efficientnet", HeadConfig(kind=kind))
    timm_model = export_network(tmp_path / "model", built)
    path = tmp_path / "model.onnx"
    # a process of its own: the exporter warns a lot
    code = "import sys; from graft.commands.cli import main; sys.exit(main())"
    words = ["export", str(timm_model), "--format", "onnx", "--logits", "--output", str(path)]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (entering,) = session.get_inputs()
    assert entering.shape[1:] == [3, 64, 64]
    assert isinstance(entering.shape[0], str)  # a name, not a number: any batch size
    for count in (1, 2, 3):
        (said,) = session.run(["logits"], {"images": images[:count].numpy()})
        torch.testing.assert_close(torch.from_numpy(said), logits(load(timm_model), images[:count]), atol=1e-4, rtol=0)


def test_logits_are_of_graphs_alone(timm_model, export_as):
    with pytest.raises(InputError, match="--logits: expected --format onnx or torch-export, received timm"):
        export_as(timm_model, "timm", "--logits")


def test_onnx_names_the_packages_that_it_lacks(timm_model, export_as, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"graft-transfer\[onnx\]"):
        export_as(timm_model, "onnx")
