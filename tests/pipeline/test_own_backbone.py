"""backbone=custom: networks of a user's own, from the plan to the exported file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import graft
from graft.commands.cli import dispatch
from graft.config.faults import ConfigError, InputError
from graft.models.own import construct_own
from graft.pipeline.session import Run, plan
from tests import own_networks

NETWORKS = ("cifar_resnet", "UNetEncoder", "SignalNet")
ROOT = Path(__file__).resolve().parents[2]


def channels_of(name: str) -> int:
    return 1 if name == "SignalNet" else 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes, which differ in their brightness and in one colour."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for channel, name in enumerate(("red", "green")):
        (folder / name).mkdir()
        for number in range(10):
            pixels = rng.integers(0, 150, (32, 32, 3)) + 40 * channel
            pixels[:, :, channel] += 60
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def donor(name: str, place: Path) -> Path:
    torch.manual_seed(0)
    module = construct_own(f"tests.own_networks:{name}", {}, num_classes=5, channels=channels_of(name))
    torch.save(module.state_dict(), place / f"{name}.pth")
    return place / f"{name}.pth"


def words(name: str, pictures: Path, place: Path, *more: str) -> list[str]:
    return [
        "backbone=custom", f"backbone.target=tests.own_networks:{name}", "donor=file",
        f"donor.path={donor(name, place)}", "data=folder", f"data.root={pictures}", "data.image_size=32",
        f"data.channels={channels_of(name)}", "data.num_workers=0", "trainer.accelerator=cpu", "trainer.threads=1",
        "trainer.progress=false", f"cache.dir={place}/cache", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module", params=NETWORKS)
def done(request: pytest.FixtureRequest, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp(request.param)
    return graft.train(*words(request.param, pictures, place), folder=place / "run", quiet=True)


def test_a_solved_head_on_kept_features_of_ones_own_trunk(done: Run) -> None:
    ledger = json.loads((done.folder / "transfer.json").read_text())
    assert {entry["verdict"] for entry in ledger["tensors"]} == {"copied", "initialized"}
    assert [row["status"] for row in ledger["donor_tensors"]].count("excused") == 2, "the donor's head"
    assert done.metrics["frozen_verified"] is True
    plan = json.loads((done.folder / "plan.json").read_text())
    assert plan["cache"]["kind"] == "features"
    assert any("ImageNet's mean" in remark for remark in plan["remarks"])


def test_the_exported_file_loads_into_the_users_own_network(done: Run) -> None:
    from safetensors.torch import load_file

    record = json.loads((done.folder / "model" / "model.json").read_text())
    module = getattr(own_networks, record["build"]["name"].partition(":")[2])
    given = {"channels": 1} if record["build"]["channels"] == 1 else {}
    module(num_classes=2, **given).load_state_dict(load_file(done.folder / "model" / "model.safetensors"), strict=True)


def test_a_run_is_opened_with_the_users_leave_alone(done: Run, pictures: Path, tmp_path: Path) -> None:
    image = str(pictures / "red" / "0.png")
    with pytest.raises(InputError, match=r"received backbone=custom with tests\.own_networks:\w+, .*--import-code"):
        graft.load(done.folder)
    with pytest.raises(InputError, match="--import-code"):
        dispatch(["predict", str(done.folder), image])
    assert graft.load(done.folder, import_code=True).classes == ("green", "red")
    out = tmp_path / "answers.json"
    wanted = ["predict", str(done.folder), image, "--import-code", "--format", "jsonl", "--output", str(out)]
    assert dispatch(wanted) == 0
    assert image in out.read_text()


def test_onnx_and_torch_export_need_no_code_afterwards(done: Run, tmp_path: Path) -> None:
    for name in ("onnx", "torch-export"):
        target = tmp_path / f"model.{name}"
        assert dispatch(["export", str(done.folder), "--import-code", "--format", name, "--output", str(target)]) == 0
    with pytest.raises(InputError, match="which is your own; try --format safetensors"):
        dispatch(["export", str(done.folder), "--import-code", "--format", "timm", "--output", str(tmp_path / "t")])


def test_fine_tuning_with_declared_stages_and_part_of_them_frozen(pictures: Path, tmp_path: Path) -> None:
    run = graft.train(
        *words("cifar_resnet", pictures, tmp_path), backbone={"stages": {"begin": ["conv1", "bn1", "layer1"],
        "end": ["layer2", "layer3"]}, "head": "fc", "kwargs": {"blocks": 1}}, freeze="begin",
        trainer={"max_epochs": 1}, folder=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert run.metrics["frozen_verified"] is True
    record = json.loads((run.folder / "model" / "model.json").read_text())
    assert (list(record["stages"]), record["build"]["kwargs"]) == (["begin", "end"], {"blocks": 1})


def test_a_builder_or_a_class_is_given_from_python(pictures: Path) -> None:
    settings = {"data": {"root": pictures, "image_size": 32}, "freeze": "none", "donor": "none"}
    seen = plan("data=folder", backbone=own_networks.CifarResNet, **settings)
    assert seen.record["backbone"] == "tests.own_networks:CifarResNet"
    with pytest.raises(InputError, match=r"backbone: expected a function or class at the top level of a module"):
        plan("data=folder", backbone=own_networks.CifarResNet(3), **settings)
    with pytest.raises(InputError, match="top level of a module"):
        plan("data=folder", backbone=lambda num_classes: own_networks.CifarResNet(num_classes, width=4), **settings)


def test_a_donor_of_three_channels_is_adapted_to_one(pictures: Path, tmp_path: Path) -> None:
    seen = plan(*words("cifar_resnet", pictures, tmp_path), data={"channels": 1})
    assert seen.record["transfer"]["adapted"] == 1 if "transfer" in seen.record else "1 adapted" in str(seen)


def test_a_constructor_that_reads_values_is_run_on_the_cpu() -> None:
    before = torch.random.get_rng_state()
    module = construct_own("tests.own_networks:of_values", {}, num_classes=2, device="meta")
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}
    assert module.get_parameter("conv1.weight").shape[0] == 7
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("tests.own_networks:cifar_resnt", r"received 'cifar_resnt', .*try tests\.own_networks:cifar_resnet"),
        ("tests.nowhere:build", "there is no module tests.nowhere"),
        ("tests.own_networks:NUMBER", "function or class, received tests.own_networks:NUMBER, .* int"),
        ("tests.own_networks:not_a_module", r"to return a torch\.nn\.Module, received a list"),
        ("tests.own_networks:broken", r"received KeyError: 'large'\n  .*own_networks.py, line \d+, in broken: return"),
        ("tests.own_networks:Block", r"to take \(num_classes=…\), received one that takes \(width"),
    ],
)
def test_what_is_wrong_with_a_builder_is_said(target: str, expected: str) -> None:
    with pytest.raises(InputError, match=rf"^backbone\.target: expected .*{expected}"):
        construct_own(target, {}, num_classes=2, device="meta")


@pytest.mark.parametrize(
    ("given", "key", "expected"),
    [
        (["data.image_size=32"], "backbone.target", "a function that builds a module with backbone=custom"),
        (["backbone.target=tests.own_networks:UNetEncoder"], "data.image_size", "no library publishes one"),
        (["backbone.target=nosuchpackage:build"], "backbone.target", "of a module that exists"),
        (["backbone.target=unpointed"], "backbone.target", "package.module:name"),
        (["backbone.target=tests.own_networks:UNetEncoder", "donor=pretrained"], "donor", "publishes weights"),
        (["backbone.target=tests.own_networks:UNetEncoder", "backbone.drop_path=0.1"], "backbone.drop_path", "effect"),
    ],
)
def test_mistakes_of_the_config_are_answered_before_anything_is_imported(
    given: list[str], key: str, expected: str
) -> None:
    words = ["backbone=custom", "donor=none", "freeze=none", *given]
    code = (
        "import sys\nfrom graft.config.presets import composed\nfrom graft.config.faults import ConfigError\n"
        f"try: composed({words!r})\nexcept ConfigError as error: print(error)\n"
        "print('torch' in sys.modules, 'tests.own_networks' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    lines = ended.stdout.splitlines()
    assert any(line.startswith(f"{key}: expected ") and expected in line for line in lines), ended.stdout
    assert lines[-1] == "False False"


def test_the_error_is_one_of_the_config() -> None:
    with pytest.raises(ConfigError):
        plan("backbone=custom", "donor=none", "freeze=none")
