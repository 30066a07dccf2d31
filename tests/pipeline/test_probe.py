"""graft probe: donors measured on images from the pass that training makes too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graft.commands.cli import dispatch
from graft.commands.probe import planned, show
from graft.config.faults import InputError
from graft.config.presets import composed, packaged_backbones
from graft.features.store import SUFFIX
from graft.heads.ridge import solve_ridge
from graft.pipeline import probe as probing
from graft.pipeline.inputs import Inputs
from graft.pipeline.probe import Probe, probe
from graft.pipeline.run import run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes of two directions, in noise that hides some."""
    place, rng = tmp_path_factory.mktemp("striped"), np.random.default_rng(0)
    for part, count in (("train", 10), ("val", 6)):
        for name, axis in (("across", 0), ("along", 1)):
            (place / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 200, (40, 40, 3))
                pixels[(slice(None),) * axis + (slice(None, None, 4),)] += 50
                Image.fromarray(pixels.astype(np.uint8)).save(place / part / name / f"{number}.png")
    return place


@pytest.fixture
def words(pictures: Path, tmp_path: Path) -> list[str]:
    return [
        "data=folder", f"data.root={pictures}", "backbone=efficientnet_lite0", "data.image_size=32", "head=stages",
        "cache=features", f"cache.dir={tmp_path / 'cache'}", "trainer.accelerator=cpu", "data.num_workers=0",
    ]  # fmt: skip


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(f"*{SUFFIX}"))


def test_both_taps_come_from_one_pass_which_training_then_finds(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    collected = probing._collected
    monkeypatch.setattr(probing, "_collected", lambda data, part: seen.append(collected(data, part)) or seen[-1])
    last, blocks = probe(composed(words), Inputs())
    assert (last.taps, last.values, blocks.taps) == ("last layer", 1280, "all blocks")
    assert blocks.values > 2 * 1280
    assert (last.images, last.solved_on) == (12, 20)
    (features, labels), (others, truth) = seen
    solution = solve_ridge(features[:, -1280:], torch.nn.functional.one_hot(labels, 2).double())
    assert last.ridge == float((solution.head(others[:, -1280:]).argmax(1) == truth).double().mean())
    assert last.ridge_left_out == float((solution.left_out_NK.argmax(1) == labels).double().mean())
    for each in (last, blocks):
        assert all(0 <= share <= 1 for share in (each.ridge, each.ridge_left_out, each.neighbours))
    made = entries(tmp_path / "cache")
    assert made
    run(composed([*words, "trainer.max_epochs=1", "trainer.progress=false"]), tmp_path / "run", words)
    assert entries(tmp_path / "cache") == made, "the run computed nothing anew"


def test_many_images_are_a_part_of_them_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "MOST", 4)
    features, labels = torch.arange(9.0)[:, None], torch.arange(9)
    some, same = probing._some(features, labels, seed=1), probing._some(features, labels, seed=1)
    assert torch.equal(some[0], same[0])
    assert some[0][:, 0].tolist() == some[1].tolist()
    assert len(set(some[1].tolist())) == 4
    assert torch.equal(probing._some(features[:4], labels[:4], seed=1)[0], features[:4])


def test_the_command_has_a_row_for_each_tap_and_its_keys_are_training_s(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(pictures), f"cache.dir={tmp_path / 'cache'}", "data.num_workers=0", "trainer.accelerator=cpu"]
    assert dispatch(["probe", *given, "--backbone", "efficientnet_lite0", "--image-size", "32", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [(row["backbone"], row["image_size"], row["taps"]) for row in rows] == [
        ("efficientnet_lite0", 32, "last layer"), ("efficientnet_lite0", 32, "all blocks"),
    ]  # fmt: skip
    assert {row["data"] for row in rows} == {str(pictures)}
    assert len(entries(tmp_path / "cache")) == 1


def test_a_row_for_each_donor_and_size_is_planned() -> None:
    rows = planned([str(Path(__file__).parent)], ["resnet18", "efficientnet_lite1"], [None, "64"], ["seed=3"])
    (configs,) = rows.values()
    told = [(name, config.backbone.name, config.data.image_size, config.seed) for name, config in configs]
    assert told == [
        ("resnet18", "resnet18", None, 3), ("resnet18", "resnet18", 64, 3),
        ("efficientnet_lite1", "tf_efficientnet_lite1", None, 3),
        ("efficientnet_lite1", "tf_efficientnet_lite1", 64, 3),
    ]  # fmt: skip


def test_the_table_says_on_how_many_images(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # of the terminal: no cell is wrapped
    row = Probe(
        backbone="resnet18", image_size=224, taps="all blocks", values=4480, ridge=0.5, ridge_left_out=0.25,
        neighbours=0.75, images=1200, solved_on=2000, seconds_of_pass=1.25,
        seconds=0.5,
    )  # fmt: skip
    show("photos", [row])
    shown = capsys.readouterr().out
    assert "photos: accuracy on 1,200 validation images; solved on 2,000 training images" in shown
    assert [*shown.splitlines()[-1].split()] == [
        "resnet18", "224", "all", "blocks", "4,480", "0.5000", "0.2500", "0.7500", "1.2", "s", "0.5", "s",
    ]  # fmt: skip


def test_the_packaged_donors_are_those_whose_packages_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packaged_backbones() == ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
    monkeypatch.setattr("graft.config.presets.find_spec", lambda name: None)
    assert packaged_backbones() == []
    with pytest.raises(InputError, match=r"--backbone: .* received none; try pip install 'graft-transfer\[demo\]'"):
        dispatch(["probe", "photos"])


def test_numbers_and_labels_are_refused(words: list[str], pictures: Path) -> None:
    table = pictures.parent / "table.csv"
    table.write_text("path,label\n" + "".join(f"{path},{path.parent.name}\n" for path in pictures.rglob("*.png")))
    rest = [word for word in words if not word.startswith("data")]
    config = composed([*rest, "data=csv", f"data.root={table}", "data.task=multi_label", "data.image_size=32"])
    with pytest.raises(InputError, match=r"data\.task: expected single_label, .* received multi_label"):
        probe(config, Inputs())


def test_every_mistake_is_answered_before_torch_is_imported() -> None:
    code = """
import sys
from graft.commands.cli import dispatch
from graft.commands.probe import planned, show
from graft.config.faults import InputError
try:
    dispatch(["probe", "nowhere", "--backbone", "efficientnet_lit0", "--image-size", "3"])
except InputError as error:
    print(error)
assert "torch" not in sys.modules
try:
    dispatch(["probe", "data.val_fraction=0.3"])
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for said in ("try backbone=efficientnet_lite", "from 16 upward, received 3", "nowhere, which does not exist"):
        assert said in done.stdout
    assert "DATA: expected a folder of images or a CSV file, received none" in done.stdout
