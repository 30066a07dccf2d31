"""graft diff: figures by hand, names on each side, a run against its donor, the drawing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from graft.results.drift import tensor_change
from graft.system.files import write_json
from graft.transfer import Donor, account_donor, donor_of_mapping, inject, target_of_module
from graft.transfer.donors import open_donor
from graft.transfer.rules import Rules
from graft.weights.compare import compare

FIRST = {
    "stem.weight": torch.tensor([3.0, 4.0]),
    "stem.running_var": torch.tensor([1.0, 1.0]),
    "body.a": torch.tensor([1.0, 0.0]),
    "body.b": torch.tensor([0.0, 2.0]),
    "body.steps": torch.tensor(3),
    "body.zero": torch.zeros(2),
    "old.weight": torch.ones(1),
    "fc.weight": torch.ones(5, 2),
}
SECOND = {
    "stem.weight": torch.tensor([3.0, 4.0]),
    "stem.running_var": torch.tensor([9.0, 9.0]),
    "body.a": torch.tensor([0.0, 1.0]),
    "body.b": torch.tensor([0.0, 2.5]),
    "body.steps": torch.tensor(6),
    "body.zero": torch.tensor([0.3, 0.4]),
    "new.weight": torch.ones(1),
    "fc.weight": torch.ones(3, 2),
}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    save_file(FIRST, tmp_path / "first.safetensors")
    torch.save({"state_dict": {f"module.{name}": value for name, value in SECOND.items()}}, tmp_path / "second.pt")
    return tmp_path / "first.safetensors", tmp_path / "second.pt"


def test_the_sums_by_hand() -> None:
    change = tensor_change(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
    assert (change.moved, change.start, change.end, change.product) == (5.0, 5.0, 20.0, 10.0)
    assert (change.relative, change.cosine) == (1.0, pytest.approx(1.0))
    opposite = tensor_change(torch.tensor([1j, 1]), torch.tensor([-1j, -1]))
    assert (opposite.relative, opposite.cosine) == (2.0, pytest.approx(-1.0))
    assert tensor_change(torch.zeros(2), torch.ones(2)).cosine is None


def test_each_tensor_s_change_and_cosine(graft, files) -> None:
    code, out, _ = graft("diff", *files, "--json")
    told = json.loads(out)
    assert code == 0
    rows = {row["first_name"]: row for row in told["tensors"]}
    assert {name: row["change"] for name, row in rows.items()} == {
        "stem.weight": 0.0,
        "stem.running_var": 8.0,
        "body.a": pytest.approx(math.sqrt(2)),
        "body.b": 0.25,
        "body.steps": 1.0,
        "body.zero": pytest.approx(0.5),
        "fc.weight": None,
    }
    assert rows["stem.weight"]["cosine"] == pytest.approx(1.0)
    assert (rows["body.a"]["cosine"], rows["body.zero"]["cosine"], rows["body.steps"]["cosine"]) == (0.0, None, None)
    assert rows["fc.weight"]["note"] == "another shape: (5, 2) became (3, 2)"
    assert (told["only_first"], told["only_second"]) == (["old.weight"], ["module.new.weight"])
    assert 'prefix "module." stripped from all names of the second' in told["remarks"]


def test_stages_are_one_vector_each_without_running_statistics(graft, files) -> None:
    stages = {row["stage"]: row for row in json.loads(graft("diff", *files, "--json")[1])["stages"]}
    assert list(stages) == ["stem", "body"]
    assert (stages["stem"]["change"], stages["stem"]["tensors"]) == (0.0, 1)
    assert stages["body"]["change"] == pytest.approx(math.sqrt((2 + 0.25 + 0.25) / 5))
    assert stages["body"]["cosine"] == pytest.approx(5 / math.sqrt(5 * (1 + 6.25 + 0.25)))
    assert (stages["body"]["largest"], stages["body"]["moved"]) == ("module.body.a", 3)


def test_the_table_says_the_same(graft, files) -> None:
    out = graft("diff", *files)[1]
    row = next(line.split() for line in out.splitlines() if "module.body.b " in line)
    assert row[:5] == ["body", "module.body.b", "2", "0.25", "1.000000"]
    assert "on both      7 tensors: 1 equal, 5 changed, 1 that cannot be compared" in out
    assert "first only   old.weight" in out
    assert "second only  module.new.weight" in out
    assert "module.body.b " not in graft("diff", *files, "--stages")[1]


def test_containers_of_one_file_against_each_other(graft, tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "state_dict_ema": {"w": torch.full((2,), 1.5)}}, tmp_path / "a.pt")
    told = json.loads(graft("diff", tmp_path / "a.pt", tmp_path / "a.pt", "--ema-b", "--json")[1])
    assert told["tensors"][0]["change"] == pytest.approx(0.5)


def test_values_that_are_not_finite_are_said(graft, tmp_path: Path) -> None:
    save_file({"w": torch.tensor([float("nan"), 1.0])}, tmp_path / "a")
    save_file({"w": torch.ones(2)}, tmp_path / "b")
    row = json.loads(graft("diff", tmp_path / "a", tmp_path / "b", "--json")[1])["tensors"][0]
    assert (row["change"], row["cosine"], row["note"]) == (None, None, "not finite")


def test_tensors_are_read_one_by_one() -> None:
    asked: list[tuple[str, str]] = []

    def told(which: str, values: dict[str, torch.Tensor]) -> Donor:
        donor = donor_of_mapping(values, source=which)
        donor.reader = lambda name: asked.append((which, name)) or values[name]
        return donor

    compare(told("a", {"x": torch.ones(1), "y": torch.ones(1)}), told("b", {"y": torch.ones(1), "x": torch.ones(1)}))
    assert asked == [("a", "y"), ("b", "y"), ("a", "x"), ("b", "x")]


@pytest.fixture
def run_and_donor(tmp_path: Path, build_small: Callable, export_network: Callable) -> tuple[Path, Path, str]:
    """A run that renamed its donor's tensors, trained one stage a little and put a new head on top."""
    from graft.config.schema import Library

    network = build_small(Library.timm, "test_efficientnet")
    state = {f"encoder.{name}": value.clone() for name, value in network.module.state_dict().items()}
    save_file(state, tmp_path / "donor.safetensors")
    rules = Rules(
        rename=[(r"^encoder\.", "")], auto_skip={"classifier.*": "new head"}, auto_ignore={"classifier.*": "old head"}
    )
    with open_donor(tmp_path / "donor.safetensors") as donor:
        ledger = account_donor(donor, target_of_module(network.module), rules)
        inject(ledger, donor, network.module)
    stage = network.stages.stage_of("blocks.1.0.conv_exp.weight")
    with torch.no_grad():
        for name, value in network.module.named_parameters():
            if network.stages.stage_of(name) == stage:
                value.mul_(1.1)
    run = tmp_path / "run"
    export_network(run / "model", network)
    write_json(run / "transfer.json", ledger.to_dict())
    return run, tmp_path / "donor.safetensors", stage


@pytest.mark.parametrize("turned", [False, True])
def test_a_run_against_its_donor_is_paired_by_the_ledger(graft, run_and_donor, turned: bool) -> None:
    run, donor, stage = run_and_donor
    told = json.loads(graft("diff", *((run, donor) if turned else (donor, run)), "--json")[1])
    rows = {row["first_name"] if turned else row["name"]: row for row in told["tensors"]}
    assert rows["conv_stem.weight"]["name" if turned else "first_name"] == "encoder.conv_stem.weight"
    assert rows["conv_stem.weight"]["change"] == 0.0
    assert {row["stage"] for name, row in rows.items() if name.startswith("blocks.1.")} == {stage}
    stages = {row["stage"]: row for row in told["stages"]}
    assert stages[stage]["change"] == pytest.approx(0.1 / 1.1 if turned else 0.1, rel=1e-3)
    assert stages[stage]["cosine"] == pytest.approx(1.0)
    assert {name for name, row in stages.items() if row["moved"]} == {stage}
    assert any("paired by the ledger" in remark for remark in told["remarks"])
    alone = told["only_second" if turned else "only_first"]
    assert sorted(alone) == ["encoder.classifier.bias", "encoder.classifier.weight"]


def test_another_file_than_the_run_s_donor_is_paired_by_name(graft, run_and_donor, tmp_path: Path) -> None:
    run, donor, _ = run_and_donor
    with open_donor(donor) as opened:
        save_file({name: opened.read(name) + 1 for name in opened.infos}, tmp_path / "other.safetensors")
    told = json.loads(graft("diff", tmp_path / "other.safetensors", run, "--json")[1])
    assert told["tensors"] == []


def test_the_drawing_in_each_format(graft, files, tmp_path: Path) -> None:
    for suffix in (".png", ".svg", ".html"):
        assert graft("diff", *files, "--stages", "--plot", tmp_path / f"changes{suffix}")[0] == 0
    assert (tmp_path / "changes.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "changes.svg").read_text()
    assert "#2563b8" in svg
    assert "var(--" not in svg
    page = (tmp_path / "changes.html").read_text()
    assert page.count("<h1>") == 1
    assert "var(--c1)" in page
    assert not re.search(r"(src|href)=\"https?:", page.replace('href="http://www.w3.org', ""))
    assert "module.body.zero" in page
    assert "old.weight" in page


@pytest.mark.parametrize(
    ("plot", "word"), [("a.pdf", "--plot: expected a file in .png, .svg, .html"), ("no/a.png", "a folder that exists")]
)
def test_a_plot_that_cannot_be_written_is_told_before_anything_is_read(graft, plot: str, word: str) -> None:
    code, out, err = graft("diff", "none", "none either", "--plot", plot)
    assert (code, out) == (2, "")
    assert word in err


@pytest.mark.parametrize("turned", [False, True])
def test_a_bad_side_is_one_paragraph_and_code_2(graft, files, tmp_path: Path, turned: bool) -> None:
    (tmp_path / "bad").write_bytes(b"\x80\x02no pickle")
    words = (tmp_path / "bad", files[0]) if turned else (files[0], tmp_path / "bad")
    code, out, err = graft("diff", *words, "--plot", tmp_path / "a.png")
    assert (code, out) == (2, "")
    assert err.startswith(f"graft: donor {tmp_path / 'bad'}: expected ")
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "a.png").exists()
