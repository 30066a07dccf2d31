"""graft transfer: an adapted file and its ledger, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from graft.system.files import sha256

ARCH = ("--to-arch", "test_efficientnet")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return timm.create_model("test_efficientnet", num_classes=5).state_dict()


@pytest.fixture(scope="module")
def donor(state, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "encoder.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    return path


def test_a_file_becomes_the_library_s_with_its_ledger(graft, donor: Path, state, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    code, printed, err = graft("transfer", "--from", donor, *ARCH, "--classes", 5, "--head", "donor", "--out", out)
    assert code == 0, err
    timm.create_model("test_efficientnet", num_classes=5).load_state_dict(load_file(out), strict=True)
    assert all(torch.equal(value, state[name]) for name, value in load_file(out).items())
    ledger = json.loads((tmp_path / "out.transfer.json").read_text())
    assert ledger["donor"] == {"source": str(donor), "sha256": sha256(donor), "format": "torch"}
    assert ledger["weights"] == {"file": "out.safetensors", "sha256": sha256(out)}
    assert ledger["build"]["name"] == "test_efficientnet"
    assert ledger["summary"]["renamed"] == len(ledger["tensors"]) == len(state)
    assert f"{len(state)} renamed; {len(state)} donor tensors used, 0 excused; 100.0%" in printed
    assert printed.splitlines()[-2:] == [str(out), str(tmp_path / "out.transfer.json")]


def test_classes_give_a_new_last_layer_and_the_seed_decides_it(graft, donor: Path, state, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        words = ("--classes", 3, "--seed", seed, "--out", tmp_path / f"{name}.safetensors")
        assert graft("transfer", "--from", donor, *ARCH, *words)[0] == 0
    a, b, c = (load_file(tmp_path / f"{name}.safetensors") for name in "abc")
    assert a["classifier.weight"].shape == (3, state["classifier.weight"].shape[1])
    assert torch.equal(a["classifier.weight"], b["classifier.weight"])
    assert not torch.equal(a["classifier.weight"], c["classifier.weight"])
    assert torch.equal(a["conv_stem.weight"], state["conv_stem.weight"])
    verdicts = {each["target"]: each for each in json.loads((tmp_path / "a.transfer.json").read_text())["tensors"]}
    assert verdicts["classifier.weight"]["verdict"] == "initialized"
    assert verdicts["classifier.weight"]["reason"] == "new head"


def test_every_rule_has_its_option(graft, donor: Path, state, tmp_path: Path) -> None:
    renamed = {name.replace("conv_stem", "first"): value for name, value in state.items()}
    save_file(renamed | {"spare": torch.ones(1)}, tmp_path / "d.safetensors")
    words = [
        *("--rename", r"^first\. -> conv_stem.", "--ignore", "spare", "--channels", 1, "--classes", 2),
        *("--skip", "bn1.bias", "--adapt", "bn1.weight=init:zeros", "--out", tmp_path / "out.safetensors"),
    ]
    code, _, err = graft("transfer", "--from", tmp_path / "d.safetensors", *ARCH, *words)
    assert code == 0, err
    made = load_file(tmp_path / "out.safetensors")
    assert torch.allclose(made["conv_stem.weight"], state["conv_stem.weight"].sum(1, keepdim=True))
    assert made["bn1.weight"].eq(0).all()
    # the same, as the config writes it
    words = [
        *("--rename", r"[['^first\.', 'conv_stem.']]", "--ignore", "[spare]", "--channels", 1, "--classes", 2),
        *("--skip", "[bn1.bias]", "--adapt", "{bn1.weight: init:zeros}", "--out", tmp_path / "again.safetensors"),
    ]
    code, _, err = graft("transfer", "--from", tmp_path / "d.safetensors", *ARCH, *words)
    assert code == 0, err
    assert sha256(tmp_path / "again.safetensors") == sha256(tmp_path / "out.safetensors")


BAD = {
    "nothing there": ([], "none.pt", "expected a file that exists"),
    "unexplained names": (["--rename", "^x -> y"], None, "--rename: '^x -> y' changes no donor name"),
    "own classes": ([], None, "classifier.weight"),
    "an unknown model": (["--to-arch", "test_eficientnet"], None, "--to-arch: expected one of the"),
    "a wrong hash": (["--sha256", "0" * 64], None, f"expected sha256 {'0' * 64}"),
    "no hash": (["--sha256", "xyz"], None, "--sha256: expected 64 hexadecimal digits"),
    "a wrong match": (["--match", "nam"], None, "--match: expected one of name, structure, table"),
    "no number": (["--channels", "two"], None, "--channels: expected a whole number"),
    "no adapter": (["--adapt", "conv_stem.weight=input_sun"], None, "try input_sum"),
    "no pair": (["--adapt", "conv_stem.weight"], None, "--adapt: expected NAME=VALUE"),
    "no YAML": (["--adapt", "{a: [}"], None, "--adapt: expected a value in YAML"),
    "another suffix": (
        ["--out", "x.pt"],
        None,
        "--out: expected a file in .safetensors, received x.pt; try x.safetensors",
    ),
    "no folder": (["--out", "no/x.safetensors"], None, "--out: expected a file in a folder that exists"),
    "no classes": (["--classes", "0"], None, "--classes: expected 1 or more"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_code_2_and_what_was_there_is_untouched(graft, donor: Path, tmp_path: Path, case: str) -> None:
    words, given, said = BAD[case]
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"before")
    (tmp_path / "out.transfer.json").write_text("before")
    code, printed, err = graft("transfer", "--from", given or donor, *ARCH, "--out", out, *words)
    assert (code, printed) == (2, "")
    assert err.startswith("graft: ")
    assert said in err
    assert "donor." not in err
    assert out.read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors", "out.transfer.json"]
    assert (tmp_path / "out.transfer.json").read_text() == "before"


def test_the_donor_is_not_written_over(graft, state, tmp_path: Path) -> None:
    save_file(state, tmp_path / "d.safetensors")
    before = sha256(tmp_path / "d.safetensors")
    words = ("--classes", 2, "--out", tmp_path / "d.safetensors")
    code, _, err = graft("transfer", "--from", tmp_path / "d.safetensors", *ARCH, *words)
    assert (code, "another file than the donor" in err) == (2, True)
    assert sha256(tmp_path / "d.safetensors") == before


def test_a_value_that_is_not_finite_writes_nothing(graft, state, tmp_path: Path) -> None:
    save_file(state | {"conv_stem.weight": state["conv_stem.weight"] / 0}, tmp_path / "d.safetensors")
    words = ("--classes", 2, "--out", tmp_path / "out.safetensors")
    code, _, err = graft("transfer", "--from", tmp_path / "d.safetensors", *ARCH, *words)
    assert (code, "expected finite values" in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["d.safetensors"]
