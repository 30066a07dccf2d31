"""graft soup and graft interpolate on tiny networks and generated images, through the door."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import graft
from graft.commands.cli import dispatch
from graft.commands.interpolate import choose
from graft.commands.soup import cook
from graft.config.faults import InputError
from graft.config.figures import FIGURES
from graft.config.schema import HeadConfig, HeadKind, Library, TaskKind
from graft.report.record import read_run
from graft.weights.judge import Judge, PartAnswers
from graft.weights.members import open_members, shared_data, shared_trunk

CLASSES = ("ant", "bee", "cicada")
CONFIG = """seed: 0
data: {{kind: folder, root: {root}, batch_size: 8, image_size: 64, val_fraction: {val}, test_fraction: {test}}}
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir()
        for k in range(12):
            noise = generator.integers(0, 120, (64, 64, 3))
            noise[..., label] += 130
            Image.fromarray(noise.astype(np.uint8)).save(root / name / f"{k}.png")
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory, images, build_small, export_network) -> list[Path]:
    """Three runs of one network that differ in every weight, and in the statistics of their batch-norms."""
    sweep = tmp_path_factory.mktemp("sweep")
    made = []
    for k in range(3):
        built = build_small(Library.timm, "test_efficientnet")
        with torch.no_grad():
            generator = torch.Generator().manual_seed(k)
            for value in built.module.state_dict().values():
                if value.is_floating_point():
                    value.mul_(1 + 0.1 * torch.rand(value.shape, generator=generator))
        made.append(as_run(sweep / str(k), images, lambda folder, built=built: export_network(folder, built)))
    return made


def as_run(folder: Path, images: Path, export, *, val: float = 0.25, test: float = 0.25) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(CONFIG.format(root=images, val=val, test=test))
    export(folder / "model")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def record(folder: Path) -> dict:
    return json.loads((folder / "model" / "model.json").read_text())


def test_a_uniform_soup_is_the_mean_and_everything_opens_it(runs, images, tmp_path, capsys):
    out = tmp_path / "soup"
    assert dispatch(["soup", str(runs[0].parent), "--method", "uniform", "--output", str(out), "--test"]) == 0
    soup, members = weights(out), [weights(run) for run in runs]
    for name, value in soup.items():
        if "running_" not in name and value.is_floating_point():
            expected = sum(member[name].double() for member in members) / 3
            torch.testing.assert_close(value.double(), expected, atol=1e-7, rtol=1e-6)
    moved = [name for name in soup if name.endswith("running_mean")]
    assert not any(torch.allclose(soup[name], sum(m[name] for m in members) / 3, atol=1e-6) for name in moved)
    told = record(out)["combined"]
    assert told["method"] == "uniform soup"
    assert [member["weight"] for member in told["members"]] == pytest.approx([1 / 3] * 3)
    assert [member["sha256"] for member in told["members"]] == [record(run)["weights"]["sha256"] for run in runs]
    assert graft.load(out).classes == CLASSES
    capsys.readouterr()
    assert dispatch(["predict", str(out), str(images / "ant"), "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 12
    metrics = json.loads((out / "metrics.json").read_text())
    assert {"val/accuracy", "test/accuracy"} <= set(metrics)
    said = read_run(out).predictions
    right = (said["val"].answers_NK.argmax(1) == said["val"].truth).mean()
    assert metrics["val/accuracy"] == pytest.approx(right)
    assert dispatch(["export", str(out), "--format", "timm"]) == 0


def test_a_greedy_soup_is_no_worse_on_validation_than_its_best_member(runs, tmp_path):
    out = tmp_path / "soup"
    assert dispatch(["soup", *map(str, runs), "--output", str(out)]) == 0
    told = record(out)["combined"]
    best = max(member["val/accuracy"] for member in told["members"])
    assert record(out)["metrics"]["val/accuracy"] >= best
    assert len(told["trials"]) == 2
    assert not any(name.startswith("test/") for name in record(out)["metrics"])
    chosen = [member["weight"] for member in told["members"] if member["weight"]]
    assert sum(chosen) == pytest.approx(1)


def test_the_ends_of_the_way_are_the_two_networks(runs, tmp_path):
    out = tmp_path / "way"
    words = ["interpolate", str(runs[0]), str(runs[1]), "--alpha", "0,0.5,1", "--output", str(out)]
    assert dispatch([*words, "--bn-images", "16"]) == 0
    told = record(out)["combined"]
    assert [row["alpha"] for row in told["curve"]] == [0, 0.5, 1]
    alone = tmp_path / "alone"
    assert dispatch(["soup", str(runs[0]), str(runs[1]), "--output", str(alone)]) == 0
    members = record(alone)["combined"]["members"]
    assert [row["loss"] for row in (told["curve"][0], told["curve"][2])] == [m["val/loss"] for m in members]
    best = max(told["curve"], key=lambda row: (row["accuracy"], -row["loss"], -abs(row["alpha"] - 0.5)))
    assert told["alpha"] == best["alpha"]
    assert record(out)["metrics"]["val/accuracy"] == pytest.approx(best["accuracy"])
    assert (out / "interpolation.csv").read_text().splitlines()[0] == "alpha,accuracy,f1,auroc,loss"
    with Image.open(out / "interpolation.png") as drawn:
        assert drawn.width > 400
    expected = {0: weights(runs[0]), 1: weights(runs[1])}.get(told["alpha"])
    if expected is not None:
        assert all(torch.equal(value, expected[name]) for name, value in weights(out).items())


def test_the_run_s_own_donor_is_an_end_of_the_way_and_the_head_stands(runs, images, tmp_path, build_small):
    donor = build_small(Library.timm, "test_efficientnet").module.state_dict()
    torch.save(donor, tmp_path / "donor.pth")
    run = shutil.copytree(runs[0], tmp_path / "run")
    with open(run / ".hydra" / "config.yaml", "a") as config:
        config.write("backbone: {library: timm, name: test_efficientnet}\nhead: {kind: linear}\n")
        config.write(f"donor: {{kind: file, path: {tmp_path / 'donor.pth'}}}\n")
    out = tmp_path / "way"
    assert dispatch(["interpolate", "donor", str(run), "--alpha", "0.25", "--output", str(out)]) == 0
    mixed, end = weights(out), weights(run)
    for name, value in mixed.items():
        if name.startswith("classifier"):
            assert torch.equal(value, end[name])
        elif "running_" not in name and value.is_floating_point():
            expected = 0.75 * donor[name].double() + 0.25 * end[name].double()
            torch.testing.assert_close(value.double(), expected, atol=1e-7, rtol=1e-6)
    assert [member["weight"] for member in record(out)["combined"]["members"]] == [0.75, 0.25]
    assert record(out)["combined"]["members"][0]["run"].endswith("donor.pth")


def test_runs_that_differ_in_the_head_alone_share_what_enters_it(
    runs, images, tmp_path, build_small, export_network, monkeypatch
):
    heads = []
    for k in range(3):
        built = build_small(Library.timm, "test_efficientnet")
        built.module.load_state_dict(weights(runs[0]))
        with torch.no_grad():
            built.module.classifier.weight.mul_(k + 1)
        heads.append(as_run(tmp_path / f"h{k}", images, lambda folder, built=built: export_network(folder, built)))
    passes = []
    original = Judge._whole
    monkeypatch.setattr(Judge, "_whole", lambda self, *args: (passes.append(args[1]), original(self, *args))[1])
    assert dispatch(["soup", *map(str, heads), "--method", "uniform", "--output", str(tmp_path / "a"), "--test"]) == 0
    assert passes == ["val", "test"]
    fast = json.loads((tmp_path / "a" / "metrics.json").read_text())
    monkeypatch.setattr(Judge, "predict", lambda self, network, part="val": plainly(self, network, part))
    assert dispatch(["soup", *map(str, heads), "--method", "uniform", "--output", str(tmp_path / "b"), "--test"]) == 0
    slow = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert (fast.pop("left_out"), set(fast.pop("intervals"))) == (slow.pop("left_out"), set(slow.pop("intervals")))
    assert fast.pop("calibration")["nll"]["test"] == pytest.approx(slow.pop("calibration")["nll"]["test"], abs=1e-6)
    assert fast == pytest.approx(slow, abs=1e-6)
    soup, first = weights(tmp_path / "a"), weights(runs[0])
    assert torch.equal(soup["classifier.weight"], 2 * first["classifier.weight"])  # of once, twice and three times
    assert all(torch.equal(soup[name], value) for name, value in first.items() if not name.startswith("classifier"))


def test_networks_that_differ_in_their_trunks_share_nothing(runs):
    first, second = open_members([str(run) for run in runs[:2]])
    assert shared_trunk([first, second]) is None
    assert shared_trunk([first, first]) == "classifier"


class Followed(torch.nn.Module):
    """Something comes behind the head, so that what enters the head does not tell the logits."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 3)
        torch.nn.init.constant_(self.head.weight, weight)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return self.head(images_NCHW.mean((2, 3))).cumsum(1)


def test_what_enters_a_head_is_not_kept_where_something_follows_it(runs):
    members = open_members([str(runs[0])])
    data, seed = shared_data(members)
    judge = Judge(data, members[0].opened, seed=seed, device=torch.device("cpu"), head="head")
    for weight in (0.5, 1.5):
        network = Followed(weight)
        np.testing.assert_allclose(
            judge.predict(network).answers_NK, plainly(judge, network, "val").answers_NK, atol=1e-6
        )


def plainly(judge: Judge, network: torch.nn.Module, part: str):
    with torch.no_grad():
        outputs = torch.cat([network.eval()(batch["image"]) for batch in judge.module.loader(part)])
    truth = torch.tensor([sample.label for sample in judge.table.part(part)])
    loss = float(torch.nn.functional.cross_entropy(outputs, truth))
    probabilities = outputs.softmax(1).double().numpy()
    return PartAnswers(
        answers_NK=probabilities, truth=truth.numpy(), loss=loss, logits=outputs, task=TaskKind.single_label
    )


@pytest.mark.parametrize(("given", "taken"), [("auto", 32), (1, 2), (8, 8)])
def test_batches_have_several_images_however_the_runs_had_theirs(runs, given, taken):
    (member,) = open_members([str(runs[0])])
    data, seed = shared_data([member])
    judge = Judge(replace(data, batch_size=given), member.opened, seed=seed, device=torch.device("cpu"), bn_images=2)
    (images,) = judge.training_images()
    assert len(images) == min(taken, len(judge.table.train))


def test_what_is_undefined_chooses_nothing():
    auroc = next(each for each in FIGURES[TaskKind.single_label] if each.name == "auroc")
    rows = [{"alpha": a, "auroc": v, "loss": 1.0} for a, v in ((0.0, math.nan), (0.5, 0.5), (1.0, 0.75))]
    assert choose(rows, auroc)["alpha"] == 1.0
    with pytest.raises(InputError, match="expected a figure that is defined on validation, received auroc"):
        choose(rows[:1], auroc)
    member = SimpleNamespace(name="a run", opened=SimpleNamespace(module=None))
    undefined = SimpleNamespace(predict=lambda module: SimpleNamespace(figures=lambda: {"auroc": math.nan}))
    with pytest.raises(InputError, match="received auroc, which is undefined for a run; try --metric loss"):
        cook([member], undefined, method="greedy", metric=auroc, say=print)


def test_networks_that_do_not_belong_together_are_refused(runs, images, tmp_path, build_small, export_network):
    head = HeadConfig(kind=HeadKind.mlp, hidden=[8])
    other = as_run(
        tmp_path / "mlp",
        images,
        lambda folder: export_network(folder, build_small(Library.timm, "test_efficientnet", head)),
    )
    with pytest.raises(InputError, match="expected the same head"):
        dispatch(["soup", str(runs[0]), str(other), "--output", str(tmp_path / "x")])
    split = as_run(tmp_path / "split", images, lambda f: shutil.copytree(runs[1] / "model", f), val=0.3)
    with pytest.raises(InputError, match=r"same data\.val_fraction"):
        dispatch(["soup", str(runs[0]), str(split), "--output", str(tmp_path / "x")])
    moved = [shutil.copytree(run / "model", tmp_path / f"m{k}" / "model") for k, run in enumerate(runs[:2])]
    with pytest.raises(InputError, match="at least one run's folder"):
        dispatch(["soup", *map(str, moved), "--output", str(tmp_path / "x")])
    with pytest.raises(InputError, match="two runs or more"):
        dispatch(["soup", str(runs[0]), "--output", str(tmp_path / "x")])
    with pytest.raises(InputError, match="received it twice"):
        dispatch(["soup", str(runs[0]), str(runs[0]), "--output", str(tmp_path / "x")])
    split = as_run(tmp_path / "untested", images, lambda f: shutil.copytree(runs[1] / "model", f), test=0.0)
    with pytest.raises(InputError, match=r"--test: expected data with a test part, received data without one"):
        dispatch(["interpolate", str(moved[0]), str(split), "--test", "--output", str(tmp_path / "x")])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    with pytest.raises(InputError, match="does not exist yet"):
        dispatch(["soup", *map(str, runs), "--output", str(tmp_path / "taken")])
    assert not (tmp_path / "x").exists()
