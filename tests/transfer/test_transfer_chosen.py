"""What a command's words make of a donor: composed, planned and carried out as a run does, with the values asserted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from graft.config.compose import parse, register
from graft.config.faults import ConfigError, InputError
from graft.data.table import Sample, Table
from graft.models.network import Network, build_network
from graft.plan.plan import Plan, make_plan
from graft.transfer import account, inject, target_of_module
from graft.transfer.chosen import open_chosen, rules_for

CONF = Path(__file__).resolve().parents[2] / "conf"
ROOT = CONF.parent
State = dict[str, torch.Tensor]


def config_of(*words: str):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = ("data=folder", f"data.root={CONF}", "data.image_size=64", "freeze=none", "cache=none")
        return parse(compose("config", [*given, *words]))


def table_of(*classes: str) -> Table:
    samples = tuple(Sample(path=f"{number}.png", label=number % len(classes)) for number in range(12))
    return Table(classes=classes, train=samples, val=samples[:4], test=())


def carried_out(*words: str, classes: tuple[str, ...] = ("across", "down")) -> tuple[Plan, Network, State]:
    """The plan, the network and its tensors behind the transfer, in the order of run.py."""
    config = config_of(*words)
    plan = make_plan(config, table_of(*classes), lambda: open_chosen(config.network))
    network = build_network(
        config.backbone, config.head, num_classes=len(classes), channels=config.data.channels,
        image_size=config.data.image_size, crop_fraction=config.data.crop_fraction, seed=config.seed,
    )  # fmt: skip
    with open_chosen(config.network) as donor:
        inject(plan.ledger, donor, network.module)
    return plan, network, network.module.state_dict()


def drawn(module: torch.nn.Module, seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }


@pytest.fixture(scope="module")
def squeezenet() -> State:
    return drawn(torchvision.models.squeezenet1_1())


@pytest.fixture
def file(tmp_path: Path, squeezenet: State) -> Path:
    save_file(squeezenet, tmp_path / "donor.safetensors")
    return tmp_path / "donor.safetensors"


SQUEEZENET = "backbone=squeezenet1_1"
FIRST, LATER, HEAD = "features.0.weight", "features.3.squeeze.weight", "classifier.1"


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (1, lambda w: w.sum(dim=1, keepdim=True)),
        (4, lambda w: torch.stack([w[:, 0] / 2, w[:, 1], w[:, 2], w[:, 0] / 2], dim=1)),
        (6, lambda w: torch.cat([w, w], dim=1) / 2),
    ],
)
def test_data_channels_builds_the_first_layer_and_adapts_donor_and_mean(
    file: Path, squeezenet: State, channels: int, expected: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    plan, network, state = carried_out(SQUEEZENET, "donor=file", f"donor.path={file}", f"data.channels={channels}")
    torch.testing.assert_close(state[FIRST], expected(squeezenet[FIRST]))
    assert torch.equal(state[LATER], squeezenet[LATER])
    assert plan.ledger.by_target[FIRST].verdict.value == "adapted"
    mean = (0.485, 0.456, 0.406)
    assert network.preprocess.mean == pytest.approx([sum(mean) / 3] if channels == 1 else (mean * 2)[:channels])
    assert len(network.preprocess.std) == channels


def test_two_channels_ask_which(file: Path) -> None:
    with pytest.raises(Exception, match=r"a rule for 2 channels.*input_select, channels: \[0, 1\]"):
        carried_out(SQUEEZENET, "donor=file", f"donor.path={file}", "data.channels=2")


def test_another_image_size_resizes_a_vit_s_positions(tmp_path: Path) -> None:
    donor = drawn(timm.create_model("vit_tiny_patch16_224", depth=2))
    save_file(donor, tmp_path / "vit.safetensors")
    plan, network, state = carried_out(
        "backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.kwargs={depth: 2}", "data.image_size=384",
        "donor=file", f"donor.path={tmp_path / 'vit.safetensors'}",
    )  # fmt: skip
    assert network.preprocess.image_size == 384
    assert plan.ledger.by_target["pos_embed"].verdict.value == "adapted"
    expected = resample_abs_pos_embed(donor["pos_embed"], new_size=[24, 24], num_prefix_tokens=1)
    torch.testing.assert_close(state["pos_embed"], expected)
    assert torch.equal(state["blocks.1.mlp.fc1.weight"], donor["blocks.1.mlp.fc1.weight"])


def test_image_size_384_on_vit_b_16_is_accounted_for() -> None:
    config = config_of("backbone=vit_b_16", "data.image_size=384", "donor=file", f"donor.path={CONF / 'config.yaml'}")
    network = build_network(
        config.backbone, config.head, num_classes=2, channels=3, image_size=384, crop_fraction=None, seed=0,
        device="meta",
    )  # fmt: skip
    with torch.device("meta"):
        donor = target_of_module(torchvision.models.vit_b_16()).infos
    ledger = account(donor, target_of_module(network.module).infos, rules_for(config.network, network, ("a", "b")))
    entry = ledger.by_target["encoder.pos_embedding"]
    assert (entry.verdict.value, entry.info.shape) == ("adapted", (1, 577, 768))
    assert {each.target for each in ledger.tensors if each.source is None} == {"heads.head.weight", "heads.head.bias"}


def test_freeze_the_first_layers_and_a_new_gap_dense_256_head(file: Path, squeezenet: State) -> None:
    words = ("head=mlp", "head.hidden=[256]", "freeze=stem+stage1", "donor=file", f"donor.path={file}")
    plan, network, state = carried_out(SQUEEZENET, *words)
    assert [row.name for row in plan.stages if row.frozen] == ["stem", "stage1"]
    new = {entry.target: entry.info.shape for entry in plan.ledger.tensors if entry.source is None}
    assert sorted(new.values()) == [(2,), (2, 256), (256,), (256, 512)]
    assert {entry.verdict.value for entry in plan.ledger.tensors if entry.target not in new} == {"copied"}
    assert torch.equal(state[LATER], squeezenet[LATER])
    network.module.eval()
    assert network.module(torch.rand(2, 3, 64, 64)).shape == (2, 2)


def run_folder(folder: Path, state: State, classes: list[str]) -> Path:
    (folder / "model").mkdir(parents=True)
    save_file(state, folder / "model" / "model.safetensors")
    (folder / "model" / "model.json").write_text(json.dumps({"classes": classes}))
    return folder


def test_another_run_is_a_donor_whose_head_stays_behind(tmp_path: Path) -> None:
    donor = drawn(torchvision.models.squeezenet1_1(num_classes=3))
    folder = run_folder(tmp_path / "run", donor, ["down", "up", "left"])
    plan, _, state = carried_out(SQUEEZENET, "donor=run", f"donor.path={folder}")
    assert torch.equal(state[LATER], donor[LATER])
    assert plan.ledger.by_target[f"{HEAD}.weight"].reason == "new head"
    excused = {entry.source for entry in plan.ledger.donor_tensors if not entry.used}
    assert excused == {f"{HEAD}.weight", f"{HEAD}.bias"}
    assert any("exported model of the run" in remark for remark in plan.ledger.remarks)


def test_class_map_keeps_the_rows_of_shared_classes(tmp_path: Path) -> None:
    donor = drawn(torchvision.models.squeezenet1_1(num_classes=3))
    folder = run_folder(tmp_path / "run", donor, ["down", "up", "left"])
    plan, _, state = carried_out(
        SQUEEZENET, "donor=run", f"donor.path={folder}", "donor.class_map=names", classes=("across", "down")
    )
    assert plan.ledger.by_target[f"{HEAD}.weight"].verdict.value == "adapted"
    assert torch.equal(state[f"{HEAD}.weight"][1], donor[f"{HEAD}.weight"][0])
    assert torch.equal(state[f"{HEAD}.bias"][1], donor[f"{HEAD}.bias"][0])
    assert not any(torch.equal(state[f"{HEAD}.weight"][0], row) for row in donor[f"{HEAD}.weight"])


def test_averaged_weights_are_chosen_by_option(tmp_path: Path, squeezenet: State) -> None:
    averaged = {f"module.{name}": value + 1 for name, value in squeezenet.items()}
    path = tmp_path / "both.pth"
    torch.save({"state_dict": squeezenet, "state_dict_ema": averaged, "epoch": 3}, path)
    words = (SQUEEZENET, "donor=file", f"donor.path={path}")
    plan, _, state = carried_out(*words, "donor.ema=true")
    assert torch.equal(state[LATER], squeezenet[LATER] + 1)
    assert any("container state_dict_ema" in remark for remark in plan.ledger.remarks)
    assert any('prefix "module." stripped' in remark for remark in plan.ledger.remarks)
    _, _, state = carried_out(*words)
    assert torch.equal(state[LATER], squeezenet[LATER])


def timm_folder(folder: Path, state: State) -> str:
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "squeezenet1_1"}))
    return f"local-dir:{folder}"


def sharded(folder: Path, state: State) -> str:
    folder.mkdir()
    names, index = sorted(state), {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-{number}.safetensors"
        save_file({name: state[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return str(folder)


@pytest.mark.parametrize("make", [timm_folder, sharded])
def test_folders_of_other_tools(tmp_path: Path, squeezenet: State, make: Callable[[Path, State], str]) -> None:
    path = make(tmp_path / "donor", squeezenet)
    plan, _, state = carried_out(SQUEEZENET, "donor=file", f"donor.path={path}")
    assert all(torch.equal(state[name], value) for name, value in squeezenet.items() if HEAD not in name)
    assert plan.ledger.source == path


def test_a_function_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["import torch, torchvision", "def make():", "    torch.manual_seed(3)"]
    code = "\n".join([*lines, "    return torchvision.models.squeezenet1_1()"])
    (tmp_path / "own_donor_of_mine.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    _, _, state = carried_out(SQUEEZENET, "donor=file", "donor.path=python:own_donor_of_mine:make")
    made: Any = sys.modules["own_donor_of_mine"]
    assert torch.equal(state[FIRST], made.make().state_dict()[FIRST])


@pytest.mark.parametrize("path", ["hf-hub:owner/name", "python:package.module:make"])
def test_paths_that_name_no_file_are_no_config_fault(path: str) -> None:
    assert config_of(SQUEEZENET, "donor=file", f"donor.path={path}").donor.path == path


def test_a_local_dir_that_is_not_there_is_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"donor\.path: expected a file that exists, received local-dir:.*none"):
        config_of(SQUEEZENET, "donor=file", f"donor.path=local-dir:{tmp_path / 'none'}")


def test_a_donor_of_which_nothing_is_used_is_refused(file: Path) -> None:
    words = (SQUEEZENET, "donor=file", f"donor.path={file}", "donor.skip=['*']", "donor.ignore=['*']")
    with pytest.raises(InputError, match="received rules under which none of its 52 tensors fills anything"):
        carried_out(*words)
